"""Drift: what is watched of every version that scores, told over HTTP and to Prometheus."""
