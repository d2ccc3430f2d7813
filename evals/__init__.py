"""Questions with known answers in, scores with intervals out, through the very functions the app calls."""
