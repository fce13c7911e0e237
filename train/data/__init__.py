"""Datasets, their cache of int16 clips, and a synthetic sample."""
