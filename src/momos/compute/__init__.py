"""How a process computes: device and threads, random seeds, cost."""
