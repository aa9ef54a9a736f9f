"""Training with weights: losses, batches that share trunks, the reward model, and the loop that runs them."""
