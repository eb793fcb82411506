"""Trains a small Chinese-CLIP on pictures of coloured shapes, on a CPU, and saves it as the original project saves its
own: a `.pt` file and a vocabulary.

    python examples/shapes/train.py OUTPUT_FOLDER [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import ChineseCLIPConfig, ChineseCLIPModel

import shapes
from torchlift.families.chinese_clip.names import to_original
from torchlift.processing.wordpiece import WordPieceTokenizer

RESOLUTION, PATCH = 64, 16
"""Sides of the pictures that the model sees, and of the patches it cuts them into, in pixels."""

WIDTH = 128
"""Width of both towers, and length of a feature."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue, as every Chinese-CLIP takes them."""

MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class Plan:
    """How long to train, on how many pictures, and how fast to learn."""

    steps: int = 600
    batch: int = 96
    pictures: int = 5000
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    warm_up: int = 50
    seed: int = 0


# The model ------------------------------------------------------------------------------------------------------------


def build(vocabulary_size: int) -> ChineseCLIPModel:
    """A Chinese-CLIP with about 1.1 million random weights; like the big ones it has 64 units a head and QuickGELU."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": WIDTH // 64}
    vision = {"num_hidden_layers": 3, "image_size": RESOLUTION, "patch_size": PATCH, "hidden_act": "quick_gelu"}
    text = {"num_hidden_layers": 2, "vocab_size": vocabulary_size, "max_position_embeddings": 64}
    start = {"initializer_range": WIDTH**-0.5, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ChineseCLIPConfig(
        vision_config={**tower, **vision},
        text_config={**tower, **text, **start},
        projection_dim=WIDTH,
        logit_scale_init_value=math.log(30),
    )
    model = ChineseCLIPModel(config)
    model.vision_model.embeddings.position_embedding.weight.data[1:] += waves(RESOLUTION // PATCH, WIDTH)
    return model


def waves(grid: int, width: int) -> Tensor:
    """Sines and cosines of each patch's column and row: float32 [grid * grid, width], row by row.

    Positions are learned, but a training this short needs a start from which they can be told apart.
    """
    frequencies = 100 ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (column, row)]
    return math.sqrt(2) * torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def embed_images(model: ChineseCLIPModel, images: Tensor) -> Tensor:
    """uint8 [N, 3, RESOLUTION, RESOLUTION] -> unit vectors float32 [N, WIDTH]."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    class_token = model.vision_model((images / 255 - mean) / std).pooler_output
    return functional.normalize(model.visual_projection(class_token), dim=-1)


def embed_texts(model: ChineseCLIPModel, tokenizer: WordPieceTokenizer, texts: Sequence[str]) -> Tensor:
    """N texts -> unit vectors float32 [N, WIDTH]."""
    ids = torch.from_numpy(tokenizer.encode(texts))
    hidden = model.text_model(ids, attention_mask=(ids != 0).long()).last_hidden_state
    return functional.normalize(model.text_projection(hidden[:, 0]), dim=-1)


# The data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Album:
    """Pictures as the model takes them, uint8 [N, 3, RESOLUTION, RESOLUTION], and what is on each."""

    images: Tensor
    scenes: list[shapes.Scene]

    @classmethod
    def draw(cls, n: int, seed: int, combinations: Sequence[shapes.Combination]) -> Album:
        """Draw ``n`` pictures that go through ``combinations`` in turn."""
        images = torch.empty(n, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8)
        scenes = []
        for image, sample in zip(images, shapes.samples(n, seed, combinations), strict=True):
            image.copy_(resized(sample.picture))
            scenes.append(sample.scene)
        return cls(images, scenes)


def resized(picture: Image.Image) -> Tensor:
    """Squash a picture to uint8 [3, RESOLUTION, RESOLUTION], bicubic, as Chinese-CLIP does."""
    small = picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC).convert("RGB")
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def mirrored(images: Tensor, rng: np.random.Generator) -> Tensor:
    """The same images [N, 3, H, W], about half of them with left and right swapped."""
    swap = torch.from_numpy(rng.random(len(images)) < 0.5)
    return torch.where(swap[:, None, None, None], images.flip(-1), images)


def write_captions(scenes: Sequence[shapes.Scene], rng: np.random.Generator) -> list[shapes.Caption]:
    """A fresh caption for each picture; three in five tell the colour only or the shape only."""
    both, colour, shape = shapes.TEMPLATES, shapes.COLOUR_TEMPLATES, shapes.SHAPE_TEMPLATES
    kinds = (both, both, colour, shape, shape)
    return [shapes.caption(scene, rng, kinds[rng.integers(len(kinds))]) for scene in scenes]


def matches(scenes: Sequence[shapes.Scene], captions: Sequence[shapes.Caption]) -> Tensor:
    """Which caption is true of which picture, bool [pictures, captions]: often of more than its own."""
    return torch.tensor([[caption.fits(scene) for caption in captions] for scene in scenes])


# Training -------------------------------------------------------------------------------------------------------------


def contrastive_loss(logits: Tensor, match: Tensor) -> Tensor:
    """CLIP's loss in both directions, where several captions may be right: the divergence from sharing the probability
    equally among them, which is 0 at best. ``logits`` is float32 and ``match`` bool, both [pictures, captions].
    """

    def divergence(logits: Tensor, match: Tensor) -> Tensor:
        wanted = match / match.sum(1, keepdim=True)
        return functional.kl_div(logits.log_softmax(1), wanted, reduction="batchmean")

    return (divergence(logits, match) + divergence(logits.T, match.T)) / 2


def optimizer_for(model: ChineseCLIPModel, plan: Plan) -> torch.optim.AdamW:
    """AdamW whose weight decay pulls at matrices only, not at biases, norms or the logit scale."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98))


def rate(step: int, plan: Plan) -> float:
    """The share of the learning rate at a step, counted from 0: up in a line, then down in half a cosine."""
    if step < plan.warm_up:
        return (step + 1) / plan.warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - plan.warm_up) / (plan.steps - plan.warm_up))


@dataclass
class Progress:
    """Prints a line every few seconds."""

    every_s: float = 5.0
    start_s: float = field(default_factory=time.perf_counter)
    lines: int = 0

    def due(self) -> bool:
        """Whether it is time for the next line."""
        return self.elapsed_s > self.every_s * (self.lines + 1)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.start_s

    def show(self, text: str) -> None:
        self.lines = int(self.elapsed_s / self.every_s)
        print(f"{self.elapsed_s:4.0f} s  {text}", flush=True)


@dataclass(frozen=True)
class Trained:
    """The model and the loss of every step."""

    model: ChineseCLIPModel
    losses: list[float]


def train(plan: Plan, tokenizer: WordPieceTokenizer) -> Trained:
    """Train on the seen combinations, and print the loss and the accuracy on pictures kept aside as it goes."""
    progress = Progress()
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    album = Album.draw(plan.pictures, plan.seed, shapes.SEEN)
    aside = Album.draw(2 * len(shapes.SEEN), plan.seed + 1, shapes.SEEN)
    progress.show(f"drew {plan.pictures:,} pictures")
    model = build(len(shapes.vocabulary()))
    optimizer = optimizer_for(model, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan))
    losses: list[float] = []
    for step in range(1, plan.steps + 1):
        loss = batch_loss(model, tokenizer, album, rng.choice(plan.pictures, plan.batch, replace=False), rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        losses.append(loss.item())
        if progress.due():
            right = accuracy(model, tokenizer, aside)
            progress.show(f"step {step}/{plan.steps}  loss {np.mean(losses[-10:]):.3f}  right caption {right:.1%}")
    return Trained(model.eval(), losses)


def batch_loss(
    model: ChineseCLIPModel, tokenizer: WordPieceTokenizer, album: Album, chosen: np.ndarray, rng: np.random.Generator
) -> Tensor:
    """The loss on the pictures number ``chosen``, int64 [N], each with a fresh caption."""
    scenes = [album.scenes[i] for i in chosen]
    captions = write_captions(scenes, rng)
    images = embed_images(model, mirrored(album.images[chosen], rng))
    texts = embed_texts(model, tokenizer, [caption.text for caption in captions])
    return contrastive_loss(model.logit_scale.exp() * images @ texts.T, matches(scenes, captions))


# What it has learned --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def probabilities(model: ChineseCLIPModel, tokenizer: WordPieceTokenizer, images: Tensor) -> Tensor:
    """How likely each of ``shapes.COMBINATIONS`` is on each image: float32 [N, combinations]."""
    prompts = [shapes.prompt(colour, shape) for colour, shape in shapes.COMBINATIONS]
    similarity = embed_images(model, images) @ embed_texts(model, tokenizer, prompts).T
    return (model.logit_scale.exp() * similarity).softmax(1)


def accuracy(model: ChineseCLIPModel, tokenizer: WordPieceTokenizer, album: Album) -> float:
    """The share of pictures whose colour and shape win among all combinations."""
    best = probabilities(model, tokenizer, album.images).argmax(1).tolist()
    wanted = [shapes.COMBINATIONS.index((scene.colour, scene.shape)) for scene in album.scenes]
    return float(np.mean(np.equal(best, wanted)))


# Files ----------------------------------------------------------------------------------------------------------------


def vocabulary_file() -> bytes:
    """The content of vocab.txt: a token a line."""
    return "".join(f"{token}\n" for token in shapes.vocabulary()).encode()


def save(model: ChineseCLIPModel, path: Path, step: int) -> None:
    """Write the weights, float32, as the original project's training does."""
    state = {f"module.{name}": tensor.clone() for name, tensor in to_original(model.state_dict()).items()}
    torch.save({"epoch": 1, "step": step, "name": "shapes", "state_dict": state}, path)


def show_never_seen(model: ChineseCLIPModel, tokenizer: WordPieceTokenizer, path: Path, seed: int) -> None:
    """Draw a combination that training left out, and print what the model takes it for."""
    colour, shape = shapes.UNSEEN[0]
    picture = shapes.draw(shapes.Scene(colour, shape), np.random.default_rng(seed), pixels=256)
    picture.save(path)
    likely = probabilities(model, tokenizer, resized(picture)[None])[0]
    best = likely.argsort(descending=True)[:3].tolist()
    guesses = [f"{shapes.prompt(*shapes.COMBINATIONS[i])} {likely[i]:.1%}" for i in best]
    print(f"{path}: {shapes.prompt(colour, shape)}; the model says {', '.join(guesses)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(description="Train a small Chinese-CLIP on coloured shapes.")
    parser.add_argument("output", type=Path, help="folder for shapes.pt, vocab.txt and never-seen.png")
    parser.add_argument("--steps", type=int, default=plan.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=plan.seed, help="default: %(default)s")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)  # more do not speed up so small a model

    warm_up = min(plan.warm_up, options.steps // 2)
    plan = replace(plan, steps=options.steps, warm_up=warm_up, seed=options.seed)
    tokenizer = WordPieceTokenizer(vocabulary_file())
    model = train(plan, tokenizer).model
    for what, combinations in (("seen", shapes.SEEN), ("never seen together", shapes.UNSEEN)):
        fresh = Album.draw(540, plan.seed + 2, combinations)
        print(f"new pictures, colour and shape {what}: right caption {accuracy(model, tokenizer, fresh):.1%}")

    (options.output / "vocab.txt").write_bytes(vocabulary_file())
    print(f"{options.output / 'vocab.txt'}: {len(shapes.vocabulary())} tokens")
    save(model, options.output / "shapes.pt", plan.steps)
    print(f"{options.output / 'shapes.pt'}: {sum(p.numel() for p in model.parameters()):,} weights")
    show_never_seen(model, tokenizer, options.output / "never-seen.png", plan.seed)


if __name__ == "__main__":
    main()
