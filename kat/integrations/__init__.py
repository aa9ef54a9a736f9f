"""Weights handed to other people's trainers: TRL's as subclasses, OpenRLHF's and verl's as files that they read."""
