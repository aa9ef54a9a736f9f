"""How rows are written in files: one file a way of writing; streams undoes compression and encoding before them."""
