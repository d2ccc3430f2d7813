"""Question–passage–answer triples → small models that are loaded only if they score better."""
