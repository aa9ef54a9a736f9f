"""The command line: names of options to calls of stages."""
