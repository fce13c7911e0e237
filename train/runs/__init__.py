"""Run folders and model files: their content, starting weights, budget and evaluation."""
