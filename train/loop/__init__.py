"""The training loop: epochs, the step, checkpoints."""
