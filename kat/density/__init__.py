"""The heart: neighbours, density, weights."""
