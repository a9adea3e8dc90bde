"""Where and how a process computes: device, seeds, cost."""
