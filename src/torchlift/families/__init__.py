"""The families by name. The code of a family, and torch with it, is imported when the family is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from torchlift.errors import SourceError

if TYPE_CHECKING:
    from torchlift.families.base import Family

FAMILIES: dict[str, str] = {
    "bert": "torchlift.families.bert:Bert",
    "chinese-clip": "torchlift.families.chinese_clip:ChineseClip",
    "image-classifier": "torchlift.families.image_classifier:ImageClassifierFamily",
    "mobilevit": "torchlift.families.mobilevit:MobileViTFamily",
    "swin": "torchlift.families.swin:SwinFamily",
    "yolov5": "torchlift.families.yolov5:YoloFamily",
    "module": "torchlift.families.module:ModuleFamily",
    "srcnn": "torchlift.families.srcnn:SrcnnFamily",
}
"""Name -> ``module:class``."""


def family(name: str) -> Family:
    """The family of a name. Raises SourceError for an unknown name, with the nearest known one."""
    if name not in FAMILIES:
        near = difflib.get_close_matches(name.lower(), FAMILIES, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise SourceError(
            f"there is no family {name!r}", remedy=f"{hint}The families are {', '.join(sorted(FAMILIES))}."
        )
    module, _, cls = FAMILIES[name].partition(":")
    made: Family = getattr(importlib.import_module(module), cls)()
    return made
