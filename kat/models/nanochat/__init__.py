"""nanochat's checkpoints and models."""
