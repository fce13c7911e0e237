"""Fuzzing: `python -m tests.fuzz`, or `make fuzz`."""
