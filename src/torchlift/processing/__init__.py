"""Torch-free preparation of inputs and reading of outputs."""
