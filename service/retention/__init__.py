"""Retention: what may be deleted, and deleting it."""
