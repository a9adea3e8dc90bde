"""Language models and their text."""
