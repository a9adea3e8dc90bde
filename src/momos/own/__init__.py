"""MoMos and QAT in a training loop of one's own, whatever trains there (see `loop`)."""
