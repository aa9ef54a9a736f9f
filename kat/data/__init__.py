"""Reading what people have: files to rows, the formats of preference rows, pairs, openings, prefixes and prompts."""
