"""Training: loop, steps, processes, run folders and the run."""
