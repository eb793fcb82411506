"""Proof: goldens, and how far answers are from PyTorch's."""
