"""Measurement: latency side by side, a process for each contender, on one GPU or several."""
