"""Losses, one a file; the trainer knows the interface in `base` alone."""
