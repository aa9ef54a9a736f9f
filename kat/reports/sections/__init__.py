"""What a report says, one file a section: pure functions from what a run's files hold to blocks."""
