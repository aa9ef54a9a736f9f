"""One file a stage: read, one pure call, write."""
