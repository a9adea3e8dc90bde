"""Going on after an interruption: checkpoints of a training, finished parts of a long stage."""
