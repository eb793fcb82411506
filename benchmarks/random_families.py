"""Writes full-size checkpoints of BERT, Swin, YOLOv5 and SRCNN with random weights, in the formats that people have.

Random weights run exactly as fast as trained ones; they say nothing about accuracy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def write_bert(folder: Path) -> Path:
    """A transformers folder of BERT-base for question answering, with a vocabulary of 30,522 made-up pieces."""
    from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        BertForQuestionAnswering(BertConfig()).save_pretrained(folder)
        letters = [chr(c) for c in range(0x21, 0x7F)]
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
        pieces += [f"[unused{i}]" for i in range(30522 - len(pieces))]
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_swin(folder: Path) -> Path:
    """A transformers folder of Swin-base, 224 pixels, 1,000 classes."""
    from transformers import SwinConfig, SwinForImageClassification

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        config = SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], num_labels=1000)
        SwinForImageClassification(config).save_pretrained(folder)
        preprocessor = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": 224, "width": 224},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def write_yolov5(folder: Path) -> Path:
    """A ``.pt`` as YOLOv5 7.0 writes its size s, with 80 classes."""
    file = folder / "yolov5s.pt"
    if not file.is_file():
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
        import yolo_models

        folder.mkdir(parents=True, exist_ok=True)
        yolo_models.save(yolo_models.yolov5s(), file)
    return file


def write_srcnn(folder: Path) -> Path:
    """A ``.pth`` as mmagic writes it."""
    file = folder / "srcnn.pth"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        layers = {
            "conv1": torch.nn.Conv2d(3, 64, 9),
            "conv2": torch.nn.Conv2d(64, 32, 1),
            "conv3": torch.nn.Conv2d(32, 3, 5),
        }
        state = {f"generator.{n}.{k}": v for n, layer in layers.items() for k, v in layer.state_dict().items()}
        torch.save({"meta": {"iter": 0}, "state_dict": state}, file)
    return file
