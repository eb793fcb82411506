"""A network of layers, each of which reads earlier ones, with a detection head as its last."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from torchlift.families.yolov5.blocks import Conv
from torchlift.families.yolov5.heads import Head


class Network(nn.Module):
    """Pictures float32 [batch, 3, height, width], RGB 0 to 1, to boxes.

    ``sources`` says for each layer, and last for the head, which layers it reads; -1 is the picture. ``lists`` says
    which take a list of maps.
    """

    def __init__(
        self, layers: Sequence[nn.Module], head: Head, sources: Sequence[Sequence[int]], lists: Sequence[bool]
    ) -> None:
        super().__init__()
        self.model, self.head = nn.ModuleList(layers), head
        self.sources = tuple(tuple(source) for source in sources)
        self.lists = tuple(lists)
        self._last = {number: place for place, source in enumerate(self.sources) for number in source}

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the head reads, level by level."""
        made: dict[int, Tensor] = {-1: images}
        for place, (layer, source) in enumerate(zip(self.model, self.sources, strict=False)):
            read = [made[number] for number in source]
            for number in {*source}:
                if self._last[number] == place:
                    del made[number]
            made[place] = layer(read if self.lists[place] else read[0])
        return [made[number] for number in self.sources[-1]]

    def forward(self, images: Tensor) -> Tensor:
        boxes: Tensor = self.head(self.maps(images))
        return boxes


def folded(network: Network) -> Network:
    """The same network with its batch normalisations in the weights of the convolutions before them."""
    made = copy.deepcopy(network)
    for block in made.modules():
        if isinstance(block, Conv) and isinstance(block.bn, nn.BatchNorm2d) and isinstance(block.conv, nn.Conv2d):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return made.eval().requires_grad_(False)
