"""Opens a YOLO. The networks are so small that threads only wait for each other."""

import pytest
import torch

from torchlift.families.base import LoadOptions
from torchlift.families.yolov5 import YoloFamily


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def open_model():
    def load(source, **options):
        return YoloFamily().load(str(source), LoadOptions(**options))

    return load
