"""Images as they come in data/raw: known data sets, archives and folders."""
