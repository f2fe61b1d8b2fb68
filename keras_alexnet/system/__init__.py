"""The machine and its files: writing atomically, locks, processes, GPUs, progress lines. Knows nothing of networks."""
