"""torch.export programs of small networks, and archives that were tampered with."""

import json

import torch
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter
from torch.nn import functional as F

from torchlift.backends.pytorch.program import load_program, save_program
from torchlift.signature import Axis, Signature, TensorSpec

BATCH = Axis("batch", 1, 3, 16)
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)), TensorSpec("ids", "int64", ("batch",))),
    (TensorSpec("y", "float32", ("batch", 4)), TensorSpec("kept", "int64", ("batch",))),
    (BATCH,),
)


class Mixed(torch.nn.Module):
    """All that names a type or a device: a view among the buffers, factories, a mask of the least float32, casts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(10, 4)
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = torch.nn.Buffer(torch.arange(8.0)[2:6])
        self.requires_grad_(False)

    def forward(self, x, ids):
        states = self.first(x) + self.table(ids) + torch.arange(4, dtype=torch.float32) * ids.float()[:, None] / 16
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            states = self.second(states.float()) * self.scale
        mask = torch.full((4,), torch.finfo(states.dtype).min, device=x.device).masked_fill(self.scale < 5, 0.0)
        shares = torch.softmax(states / x.shape[1] + mask, -1, dtype=torch.float32)
        return shares * (ids / 4).sqrt()[:, None] + torch.tensor([1.0, 2.0, 3.0, 4.0]), ids


class Reader(torch.nn.Module):
    """Attention of texts, padded with zeros, over two heads of 16: ids [texts, length] -> [texts, 32]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, 32)
        self.project = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(3))
        self.requires_grad_(False)

    def forward(self, ids):
        mask = ((ids.float().clamp(max=1.0) - 1.0) * 10000.0)[:, None, None, :].expand(-1, -1, ids.shape[1], -1)
        heads = [p(self.table(ids)).unflatten(2, (2, 16)).transpose(1, 2) for p in self.project]
        return F.scaled_dot_product_attention(*heads, mask).transpose(1, 2).flatten(2)[:, 0]


def texts(rows, length, seed=0):
    """Ids of texts, the last one half as long."""
    ids = torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[-1, length // 2 :] = 0
    return ids


def write_reader(file):
    """The program of a Reader, of up to 16 texts and 100 ids."""
    axes = {0: torch.export.Dim("batch", min=1, max=16), 1: torch.export.Dim("sequence", min=2, max=100)}
    save_program(torch.export.export(Reader().eval(), (texts(3, 8),), dynamic_shapes=(axes,)), file)
    return file


def feeds(rows, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x, ids = torch.randn(rows, 4, generator=draw), torch.randint(0, 10, (rows,), generator=draw)
    return {"x": x.numpy(), "ids": ids.numpy()}


def write_program(file, network=None):
    """The program of a network that takes what ``Mixed`` takes."""
    rows = torch.export.Dim("batch", min=1, max=16)
    inputs = tuple(map(torch.from_numpy, feeds(3).values()))
    save_program(torch.export.export((network or Mixed()).eval(), inputs, dynamic_shapes=({0: rows}, {0: rows})), file)
    return file


def loaded(folder, network, x=None):
    """The program of a network of one input, which has up to 8 rows, written and read back."""
    rows = torch.export.Dim("batch", min=1, max=8)
    given = (torch.randn(3, 5, 8) if x is None else x,)
    save_program(torch.export.export(network.eval(), given, dynamic_shapes=({0: rows},)), folder / "model.pt2")
    return load_program(folder / "model.pt2")


PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"


def tampered(file, target, change):
    """A copy of an archive in which ``change`` has edited the records: bytes by name, JSON as what it means."""
    reader = PT2ArchiveReader(str(file))
    names = [n for n in reader.get_file_names() if not n.startswith((".data", "archive_", "byteorder"))]
    records = {n: reader.read_bytes(n) for n in names}
    records = {n: json.loads(data) if n.endswith(".json") else data for n, data in records.items()}
    change(records)
    with PT2ArchiveWriter(str(target)) as writer:
        for name, data in records.items():
            writer.write_bytes(name, data if isinstance(data, bytes) else json.dumps(data).encode())
    return target
