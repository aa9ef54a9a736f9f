"""Preference pairs of known rarity, made by a grammar."""
