"""The first paper's report."""
