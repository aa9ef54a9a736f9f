"""Openings on a map: two coordinates from the neighbours that are known, and words for its crowded regions."""
