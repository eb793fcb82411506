"""Measures the latency of contenders side by side, each in its own process, and the throughput of several GPUs."""
