"""Measurements of the attention kernels and of a training step, and the tuner of the kernels' tile sizes.

Run from the repository's root: `python -m benchmarks.kernel`, `python -m benchmarks.step`,
`python -m benchmarks.tune`. What was measured lies in `results/`.
"""
