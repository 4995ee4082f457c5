"""Ablations: a grid of training runs that differ in curriculum, pooling and seed, and one table of what came
out."""
