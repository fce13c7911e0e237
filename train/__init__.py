"""Training: data, features, augmentation, models, the loop and what it hands to `deploy`."""
