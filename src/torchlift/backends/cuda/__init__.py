"""Tools for sessions on an NVIDIA GPU: device memory, streams, CUDA graphs and DLPack. They need only cuda-bindings.

Nothing here is locked. A session owns a stream, buffers and recordings, and one thread at a time uses the session.
Around each call the session makes its GPU the current one (``on_device``). A **recording** is a CUDA graph: work that
was recorded once and can be launched again as a whole. Importing this package imports nothing of CUDA.
"""

from torchlift.backends.cuda.dlpack import HOST, DeviceArray, view
from torchlift.backends.cuda.driver import check, cuda_available, devices, on_device
from torchlift.backends.cuda.memory import Block, Buffer, Pinned, to_device, to_host, upload, within_device
from torchlift.backends.cuda.stream import Event, Recording, RecordingCache, Stream, Timer, capture

__all__ = [
    "HOST",
    "Block",
    "Buffer",
    "DeviceArray",
    "Event",
    "Pinned",
    "Recording",
    "RecordingCache",
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
