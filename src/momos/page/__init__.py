"""index.html, the report in one file."""
