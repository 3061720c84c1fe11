"""Processes that serve: how they start, share one address, are counted as one, and end."""
