"""farfield, the service: fit, store, score, watch."""

__version__ = "0.1.0"
