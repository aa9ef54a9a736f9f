"""What each stage prints, one file a stage."""
