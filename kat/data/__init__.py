"""Reading what people have: files, row shapes, openings and prefixes, and a grammar that makes demo pairs."""
