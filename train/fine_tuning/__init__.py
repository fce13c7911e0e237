"""New runs from a trained one by fine-tuning: pruned, or adapted to recording devices."""
