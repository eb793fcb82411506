"""Small data sets in the formats that torchlift reads, and what is in them."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from torchlift.datasets import ReadOptions, open_data


def encoded(seed=0, size=(9, 7), form="PNG"):
    """The bytes of a small random picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def database(folder, items):
    """An LMDB of ``items``, bytes to bytes."""
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key, value in items.items():
            transaction.put(key, value)


def retrieval(folder, images, texts, split="valid"):
    """A split as .tsv and .jsonl: ``images`` id -> bytes, or text that is written as it is; ``texts`` are records."""
    folder.mkdir(exist_ok=True)
    lines = [
        f"{number}\t{base64.b64encode(data).decode() if isinstance(data, bytes) else data}\n"
        for number, data in images.items()
    ]
    (folder / f"{split}_imgs.tsv").write_text("".join(lines))
    (folder / f"{split}_texts.jsonl").write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts))
    return folder


def text(number, images, words="猫"):
    return {"text_id": number, "text": words, "image_ids": images}


def read(path, **options):
    return open_data(path, ReadOptions(**options))


def contents(images):
    return {images.ids[i]: images.read(i) for i in range(len(images))}
