"""Opens a YOLO, and asks the reference."""

import pytest

from torchlift.families.base import LoadOptions
from torchlift.families.yolov5 import YoloFamily


@pytest.fixture
def open_model():
    def load(source, **options):
        return YoloFamily().load(str(source), LoadOptions(**options))

    return load
