"""What both papers' reports share."""
