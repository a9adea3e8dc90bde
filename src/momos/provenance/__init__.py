"""Where and with what a report was made."""
