"""Recordings to features: datasets, their cache of int16 clips, log-mel and augmentation."""
