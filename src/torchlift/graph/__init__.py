"""Passes that rewrite ONNX graphs, and functions that read facts about them."""
