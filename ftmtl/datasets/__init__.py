"""Data sets, each read into the same records."""
