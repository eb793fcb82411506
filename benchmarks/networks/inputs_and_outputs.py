"""Inputs and outputs as people have them: keywords, optional and nested inputs, dicts, dataclasses, small dtypes."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from zoo_case import Axis, Input, case, f32, i64, mask

ROWS = f32("x", "batch", 8)
IDS = i64("ids", "batch", "sequence", below=50)
Boxes = namedtuple("Boxes", ["boxes", "scores"])


class Found(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] | None = None


class Two(nn.Module):
    """Two layers that most networks here share."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def both(self, x):
        """What both layers give."""
        hidden = self.first(x).relu()
        return hidden, self.second(hidden)


@case("outputs", ROWS)
class DictOutput(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return {"logits": logits, "hidden": hidden}


@case("outputs", ROWS)
class OrderedDictOutput(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return OrderedDict(out=logits, aux=hidden.mean(-1))


@case("outputs", ROWS)
class DataclassOutput(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return Output(logits, hidden=(x, hidden))


@case("outputs", ROWS)
class NamedTupleOutput(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return Found(logits, hidden)


@case("outputs", ROWS)
class CollectionsNamedTuple(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return Boxes(logits.sigmoid(), hidden.amax(-1))


@case("outputs", ROWS)
class NestedTuples(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return logits, (hidden, (hidden * 2, [logits.exp()]))


@case("outputs", ROWS)
class DictOfLists(Two):
    def forward(self, x):
        hidden, logits = self.both(x)
        return {"stages": [hidden, logits], "best": {"value": logits.amax(-1), "index": logits.argmax(-1)}}


@case("outputs", ROWS)
class ListOutput(Two):
    def forward(self, x):
        return list(self.both(x))


@case("outputs", ROWS)
class NoneAmongOutputs(Two):
    def forward(self, x):
        return self.both(x)[1], None, x.sum(-1)


@case("outputs", ROWS)
class InputIsOutput(Two):
    def forward(self, x):
        return x, self.both(x)[1]


@case("outputs", ROWS)
class DuplicateOutputs(Two):
    def forward(self, x):
        logits = self.both(x)[1]
        return logits, logits


@case("outputs", ROWS)
class InnerValueIsOutput(Two):
    def forward(self, x):
        hidden = self.first(x)
        return hidden, self.second(hidden.relu()), hidden.relu()


@case("outputs", ROWS)
class OutputNamedLikeAnInput(Two):
    def forward(self, x):
        x = self.first(x)
        return {"x": x, "linear": self.second(x)}


@case("outputs", ROWS)
class ConstantOutput(Two):
    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.arange(12.0).view(6, 2))

    def forward(self, x):
        return self.both(x)[1], self.anchors


@case("outputs", ROWS)
class NumberOutput(Two):
    def forward(self, x):
        return self.both(x)[1], 4


@case("outputs", ROWS)
class ViewOfAnInput(Two):
    def forward(self, x):
        return x[:, :4].reshape(x.shape[0], 2, 2), self.both(x)[1]


@case("outputs", f32("x", "rows", 8))
class ScalarOutput(Two):
    def forward(self, x):
        return self.both(x)[1].square().mean()


@case("outputs", ROWS, refused="ONNX Runtime has no complex outputs")
class ComplexOutput(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x)


@case("outputs", ROWS)
class MixedDtypes(Two):
    def forward(self, x):
        logits = self.both(x)[1]
        best = logits.argmax(-1)
        return logits.half(), best, best.int(), logits > 0, (logits.sigmoid() * 255).to(torch.uint8), logits.double()


@case("inputs", ROWS, f32("y", "batch", 8))
class KeywordsOnly(Two):
    def forward(self, *, x, y):
        return self.both(x + 2 * y)[1]


@case("inputs", i64("input_ids", "batch", "sequence", below=50), mask("attention_mask", "batch", "sequence"))
class OptionalInputBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.types = nn.Embedding(50, 8), nn.Embedding(2, 8)

    def forward(self, input_ids=None, token_type_ids=None, attention_mask=None, output_all=False):
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = self.words(input_ids) + self.types(token_type_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        return (x.sum(1), x) if output_all else x.sum(1)


@case("inputs", ROWS)
class OptionalInputLeftOut(Two):
    def forward(self, x, bias=None, scale=2.0, mode="relu"):
        y = self.both(x)[1] * scale
        if bias is not None:
            y = y + bias
        return y.relu() if mode == "relu" else y


@case("inputs", IDS, mask("mask", "batch", "sequence", dtype="bool"))
class BoolMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)

    def forward(self, ids, mask):
        x = self.words(ids).masked_fill(~mask.unsqueeze(-1), 0)
        return x.sum(1) / mask.sum(1, keepdim=True)


@case("inputs", f32("pair.left", "batch", 8), f32("pair.right", "batch", 8))
class DictInput(Two):
    def forward(self, pair):
        return self.both(pair["left"] - 2 * pair["right"])[1]


@case("inputs", f32("maps.0", "batch", 4, 16, 16), f32("maps.1", "batch", 4, 8, 8))
class ListOfFeatureMaps(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(4, 6, 1) for _ in range(2))

    def forward(self, maps):
        return torch.cat([head(x).flatten(2) for head, x in zip(self.heads, maps, strict=True)], 2)


@case("inputs", Input("picture", "uint8", ("batch", "height", "width", 3), (0, 256)))
class BytesOfAPicture(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 6, 3, stride=2)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.45]).view(1, 3, 1, 1))

    def forward(self, picture):
        return self.net(picture.permute(0, 3, 1, 2).float() / 255 - self.mean)


@case("inputs", Input("x", "float16", ("batch", 8)))
class HalfInput(Two):
    def forward(self, x):
        return self.both(x.float())[1]


@case("inputs", Input("x", "int8", ("batch", 8), (-128, 128)), Input("scale", "float32", ("batch", 1), (0.01, 0.1)))
class Int8Input(Two):
    def forward(self, x, scale):
        return self.both(x * scale)[1]


@case("inputs", Input("ids", "int32", ("batch", "sequence"), (0, 50)))
class Int32Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)

    def forward(self, ids):
        return self.words(ids).mean(1), ids + 1


@case("inputs", Input("x", "float64", ("batch", 8)))
class DoubleInput(Two):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return self.both(x)[1]


@case("inputs", f32("x", "batch", 8), Input("t", "float32", ()))
class ScalarInput(Two):
    def forward(self, x, t):
        return self.both(x * t)[1] + t


@case("inputs", ROWS, f32("unused", "batch", 3))
class UnusedInput(Two):
    def forward(self, x, unused):
        return self.both(x)[1]


@case("inputs", f32("a", "batch", 8), f32("b", "batch", 8))
class ArgumentsAsStar(Two):
    def forward(self, *inputs):
        return self.both(sum(inputs))[1], self.both(inputs[0] - inputs[1])[1]


@case("inputs", i64("token_type_ids", "batch", "sequence", below=2), i64("input_ids", "batch", "sequence", below=50))
class DeclaredInAnotherOrder(nn.Module):
    """Its user declares the inputs in another order than ``forward`` has them."""

    def __init__(self):
        super().__init__()
        self.words, self.types = nn.Embedding(50, 8), nn.Embedding(50, 8)

    def forward(self, input_ids, token_type_ids):
        return self.words(input_ids) * self.types(token_type_ids).exp()


@case("inputs", f32("a", "batch", "steps", 8), f32("b", "batch", "other", 8), axes=(Axis("other", 2, 5, 13),))
class SiameseDistances(Two):
    def forward(self, a, b):
        return torch.cdist(self.both(a)[1], self.both(b)[1])


@case("inputs", f32("query", "rows", 8), f32("gallery", "items", 8))
class CosineRanking(Two):
    def forward(self, query, gallery):
        q, g = (nn.functional.normalize(self.both(v)[1], dim=-1) for v in (query, gallery))
        scores, places = (q @ g.T).topk(3, dim=1)
        return {"scores": scores, "places": places}
