"""The kernels for GPUs in Triton's interpreter, on the processor, where Triton is installed: in a process of its own,
since Triton is told so before it is imported. The interpreter multiplies float16 as a GPU does, and bfloat16 not.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

ATTENTION = """
import torch
from torch.nn import functional as F
import torchlift.backends.pytorch.kernels

torch.manual_seed(0)
for count, queries, keys, width in {shapes}:
    rows = torch.randn(3, max(queries, keys), 3 * count * width).to(torch.float16)
    query, key, value = (t.unflatten(2, (count, width)).transpose(1, 2) for t in rows.chunk(3, -1))
    query, key, value = query[:, :, :queries], key[:, :, :keys], value[:, :, :keys]
    padded = torch.zeros(3, 1, 1, keys)
    padded[0, ..., keys // 2 :] = -10000.0
    whole = torch.zeros(3, 1, 1, keys)
    whole[0], whole[1, ..., keys // 2 + 1 :] = float("-inf"), float("-inf")
    for mask in (None, padded, whole, padded.expand(-1, count, queries, -1), torch.randn(3, count, queries, keys)):
        given = None if mask is None else mask.to(torch.float16)
        found = torch.ops.torchlift.short_attention(query, key, value, given, 0.2)
        wanted = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), None if given is None else given.float(), scale=0.2
        )
        assert found.shape == query.shape and found.dtype == query.dtype
        assert found.transpose(1, 2).is_contiguous()
        torch.testing.assert_close(found.float(), wanted, atol=2e-3, rtol=2e-3)
print("agrees")
"""


def test_short_attention_agrees_with_torchs_in_float32():
    shapes = [(2, 1, 1, 16), (3, 8, 8, 64), (1, 17, 33, 32), (2, 1, 52, 64), (2, 52, 52, 16), (1, 64, 64, 128)]
    script, environment = ATTENTION.format(shapes=shapes), os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "agrees\n"
