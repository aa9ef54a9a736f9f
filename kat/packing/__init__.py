"""Many texts in one row: no padding in the linear layers, and attention that stays inside each text."""
