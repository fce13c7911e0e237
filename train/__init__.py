"""Training: recipes, data, networks, the loop, and quantization for deployment."""
