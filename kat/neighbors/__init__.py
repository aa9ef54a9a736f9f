"""The k nearest others of every row, exactly."""
