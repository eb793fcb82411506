"""ONNX in, ONNX out; and what a graph says of itself."""
