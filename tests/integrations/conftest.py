"""torchvision beside a CPU-only torch lacks two operators; declaring them lets it, and so timm, be imported."""

import importlib.util

import torch

if importlib.util.find_spec("timm") is not None:
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, _name):
            _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
