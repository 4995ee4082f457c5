"""The process group and what keeps it honest: collectives, watchdog, stop signals, exit codes, SLURM."""
