"""Uploads: files sent in parts, which become data sets that fits can name."""
