"""What sessions on an NVIDIA GPU stand on: device memory, streams, CUDA graphs and DLPack, by cuda-bindings alone.

Nothing here is locked: a session, with its stream, buffers and graphs, belongs to one thread at a time. It makes its
GPU the current one, by on_device, around each call. Importing this imports nothing of CUDA.
"""

from torchlift.backends.cuda.dlpack import HOST, DeviceArray, view
from torchlift.backends.cuda.driver import check, cuda_available, devices, on_device
from torchlift.backends.cuda.memory import Block, Buffer, Pinned, to_device, to_host, upload, within_device
from torchlift.backends.cuda.stream import Event, Graph, GraphCache, Stream, Timer, capture

__all__ = [
    "HOST",
    "Block",
    "Buffer",
    "DeviceArray",
    "Event",
    "Graph",
    "GraphCache",
    "Pinned",
    "Stream",
    "Timer",
    "capture",
    "check",
    "cuda_available",
    "devices",
    "on_device",
    "to_device",
    "to_host",
    "upload",
    "view",
    "within_device",
]
