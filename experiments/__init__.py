"""Experiments behind docs/results.md: `make results DATA=FOLDER`, each part a module, each result a file."""
