"""Trains a small Chinese-CLIP on pictures of coloured shapes, on a CPU, and saves it as the original project saves its
own: a `.pt` file and a vocabulary.

    python examples/shapes/train.py OUTPUT_FOLDER [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapes
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from torchlift.families.chinese_clip.names import to_original
from torchlift.processing.text import Tokenizer

RESOLUTION = 64
"""Side of the pictures that the model sees, in pixels."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue, as every Chinese-CLIP takes them."""

MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class Plan:
    """How long to train, on what, and how fast to learn."""

    steps: int = 400
    batch: int = 128
    pictures: int = 4000
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 40
    seed: int = 0


# The model ------------------------------------------------------------------------------------------------------------


def build(vocabulary_size: int) -> ChineseCLIPModel:
    """A Chinese-CLIP of 1.6 million random weights: 64 units a head and QuickGELU, as in the big ones."""
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
    vision = {"num_hidden_layers": 4, "image_size": RESOLUTION, "patch_size": 8, "hidden_act": "quick_gelu"}
    text = {"num_hidden_layers": 3, "vocab_size": vocabulary_size, "max_position_embeddings": 64}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ChineseCLIPConfig(
        vision_config={**tower, **vision}, text_config={**tower, **text, **no_dropout}, projection_dim=128
    )
    return ChineseCLIPModel(config)


def embed_images(model: ChineseCLIPModel, images: Tensor) -> Tensor:
    """uint8 [N, 3, RESOLUTION, RESOLUTION] -> unit vectors float32 [N, E]."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    class_token = model.vision_model((images / 255 - mean) / std).pooler_output
    return functional.normalize(model.visual_projection(class_token), dim=-1)


def embed_texts(model: ChineseCLIPModel, ids: Tensor) -> Tensor:
    """int64 [N, length], padded with 0 -> unit vectors float32 [N, E]."""
    hidden = model.text_model(ids, attention_mask=(ids != 0).long()).last_hidden_state
    return functional.normalize(model.text_projection(hidden[:, 0]), dim=-1)


# The data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Album:
    """Pictures as the model takes them, uint8 [N, 3, RESOLUTION, RESOLUTION], and what is on each."""

    images: Tensor
    scenes: list[shapes.Scene]

    @classmethod
    def draw(cls, n: int, seed: int, combinations: Iterable[shapes.Combination]) -> Album:
        drawn = list(shapes.samples(n, seed, combinations))
        images = np.stack([resize(sample.picture) for sample in drawn])
        return cls(torch.from_numpy(images), [sample.scene for sample in drawn])


def resize(picture: Image.Image) -> np.ndarray:
    """Squash a picture to uint8 [3, RESOLUTION, RESOLUTION], bicubic, as Chinese-CLIP does."""
    small = picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC).convert("RGB")
    return np.asarray(small).transpose(2, 0, 1)


def mirrored(images: Tensor, rng: np.random.Generator) -> Tensor:
    """The same images [N, 3, H, W], about half of them with left and right swapped."""
    swap = torch.from_numpy(rng.random(len(images)) < 0.5)
    return torch.where(swap[:, None, None, None], images.flip(-1), images)


def encode(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """int64 [N, length of the longest], padded with 0."""
    return torch.from_numpy(tokenizer.encode(texts))


def write_captions(scenes: list[shapes.Scene], rng: np.random.Generator) -> list[shapes.Caption]:
    """A fresh caption for each picture; half of them tell the colour only or the shape only."""
    kinds = (shapes.TEMPLATES, shapes.TEMPLATES, shapes.COLOUR_TEMPLATES, shapes.SHAPE_TEMPLATES)
    return [shapes.caption(scene, rng, kinds[rng.integers(len(kinds))]) for scene in scenes]


def matches(scenes: list[shapes.Scene], captions: list[shapes.Caption]) -> Tensor:
    """Which caption is true of which picture, bool [pictures, captions]: often of more than its own."""
    return torch.tensor([[caption.fits(scene) for caption in captions] for scene in scenes])


# Training -------------------------------------------------------------------------------------------------------------


def contrastive_loss(logits: Tensor, match: Tensor) -> Tensor:
    """CLIP's loss in both directions, where several captions may be right: the divergence from sharing the
    probability equally among them, which is 0 at best. Both arguments are [N, N]."""

    def divergence(logits: Tensor, match: Tensor) -> Tensor:
        wanted = match / match.sum(1, keepdim=True)
        return functional.kl_div(logits.log_softmax(1), wanted, reduction="batchmean")

    return (divergence(logits, match) + divergence(logits.T, match.T)) / 2


def rate(step: int, plan: Plan) -> float:
    """The share of the learning rate at a step: up in a line, then down in half a cosine."""
    if step < plan.warm_up:
        return (step + 1) / plan.warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - plan.warm_up) / max(1, plan.steps - plan.warm_up))


def optimizer_for(model: ChineseCLIPModel, plan: Plan) -> torch.optim.AdamW:
    """Weight decay pulls at matrices only: not at biases, norms or the logit scale."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98))


@dataclass(frozen=True)
class Trained:
    """The model and the loss of every step."""

    model: ChineseCLIPModel
    losses: list[float]


def train(plan: Plan, tokenizer: Tokenizer, every_s: float = 5.0) -> Trained:
    """Train on pictures of the seen combinations, with a fresh caption for a picture each time it comes up.

    Prints the loss and the accuracy on pictures kept aside, every ``every_s`` seconds.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    model = build(len(shapes.vocabulary())).train()
    optimizer = optimizer_for(model, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan))
    album = Album.draw(plan.pictures, plan.seed, shapes.SEEN)
    aside = Album.draw(len(shapes.SEEN) * 2, plan.seed + 1, shapes.SEEN)
    losses: list[float] = []
    start = shown = time.perf_counter()
    for step in range(1, plan.steps + 1):
        chosen = rng.choice(plan.pictures, plan.batch, replace=False)
        scenes = [album.scenes[i] for i in chosen]
        captions = write_captions(scenes, rng)
        images = embed_images(model, mirrored(album.images[chosen], rng))
        texts = embed_texts(model, encode(tokenizer, [c.text for c in captions]))
        loss = contrastive_loss(model.logit_scale.exp() * images @ texts.T, matches(scenes, captions))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        losses.append(loss.item())
        now = time.perf_counter()
        if now - shown > every_s:
            shown = now
            print(
                f"step {step:4}/{plan.steps}  {now - start:4.0f} s  loss {np.mean(losses[-10:]):.3f}  "
                f"right caption {accuracy(model, tokenizer, aside):6.1%}",
                flush=True,
            )
    return Trained(model.eval(), losses)


@torch.inference_mode()
def accuracy(model: ChineseCLIPModel, tokenizer: Tokenizer, album: Album) -> float:
    """The share of pictures whose colour and shape win among the prompts of all combinations."""
    prompts = [shapes.prompt(colour, shape) for colour, shape in shapes.COMBINATIONS]
    texts = embed_texts(model, encode(tokenizer, prompts))
    best = (embed_images(model, album.images) @ texts.T).argmax(1).tolist()
    answers = [shapes.COMBINATIONS[i] for i in best]
    return float(np.mean([answer == (s.colour, s.shape) for answer, s in zip(answers, album.scenes)]))
