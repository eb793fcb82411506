"""A small YOLO in the layers and under the names of YOLOv5, so that its checkpoints are like those of YOLOv5."""
