"""Proof and measurement: numerics against PyTorch, latency side by side."""
