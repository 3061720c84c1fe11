"""The way of a request to score: bytes to arrays, scores, and bytes again."""
