"""The second paper's report."""
