"""Conversion of a component's FP32 graph: ranges from samples, the forms, the search for nodes that cost accuracy."""
