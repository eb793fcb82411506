"""What a stranger may do to an archive."""

import io
import os

import torch
from programs import PROGRAM, WEIGHTS

CONSTANTS = "data/constants/model_constants_config.json"

GRAPH_MODULE = (PROGRAM, "graph_module")
GRAPH = (*GRAPH_MODULE, "graph")
NODE = (*GRAPH, "nodes", 0)
INPUT = (*NODE, "inputs", 0)
META = (*GRAPH, "tensor_values", "x")
CALL = (*GRAPH_MODULE, "module_call_graph", 0)
WEIGHT = (WEIGHTS, "config", "scale")
"""Ways to values in the program of ``Mixed``."""


class Payload:
    """Leaves a folder where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def pickled(trace):
    """What torch.load(weights_only=False) makes a folder by."""
    buffer = io.BytesIO()
    torch.save(({"x": Payload(trace)}, {}), buffer)
    return buffer.getvalue()


def inside(value, keys):
    """The value that keys and indices lead to."""
    for key in keys:
        value = value[key]
    return value


def set_sizes(records, text):
    """Change the size of every tensor that has one in symbols."""
    for meta in inside(records, GRAPH)["tensor_values"].values():
        for dim in meta["sizes"]:
            if "as_expr" in dim:
                dim["as_expr"]["expr_str"] = text
