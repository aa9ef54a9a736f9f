"""What is said to people: summaries of a stage in words and numbers."""
