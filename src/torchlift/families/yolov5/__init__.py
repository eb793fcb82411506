"""The family YOLOv5: detectors that YOLOv5, YOLOv8 and YOLO11 trained, read as data from the files that they saved."""

from torchlift.families.yolov5.family import YoloFamily

__all__ = ["YoloFamily"]
