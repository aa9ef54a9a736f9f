"""The panels that a command's help shows its options in, in their order."""

from cyclopts import Group

INPUT = Group("Input", sort_key=1)
READING = Group("Input: how rows are read", sort_key=2)
TEXTS = Group("Texts and vectors", sort_key=3)
WEIGHTS = Group("Density and weights", sort_key=4)
TRAINING = Group("Training", sort_key=5)
ANSWERS = Group("Completions and rewards", sort_key=6)
EVIDENCE = Group("Measuring", sort_key=7)
OUTPUT = Group("Output", sort_key=8)
MACHINE = Group("Machine", sort_key=9)
EVERYWHERE = Group("Of every command", sort_key=10)
