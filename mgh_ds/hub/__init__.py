"""Models, runs and data sets on a model hub: `mgh-ds push` and `mgh-ds pull`."""
