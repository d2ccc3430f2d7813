"""Question in, cited answer out. Read answer.py first."""
