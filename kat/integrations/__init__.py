"""Weights handed to other people's trainers: TRL's as subclasses, all others' as files that they read."""
