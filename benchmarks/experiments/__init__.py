"""The measurements behind benchmarks/results, each a command. Not installed."""
