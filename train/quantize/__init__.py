"""From a trained network to an integer graph."""
