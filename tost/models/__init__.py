"""Models: the generic encoder and the vision backbones."""

from tost.models.encoder import ToST
from tost.models.official import from_official, to_official
from tost.models.registry import create_model, list_models, model_config
from tost.models.vision import ToSTVision
from tost.models.vision_config import VisionConfig

__all__ = [
    "ToST",
    "ToSTVision",
    "VisionConfig",
    "create_model",
    "from_official",
    "list_models",
    "model_config",
    "to_official",
]
