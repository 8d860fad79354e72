"""Models: the generic encoder, the vision backbones, and the models of sequences."""

from tost.models.encoder import ToST
from tost.models.official import from_official, to_official
from tost.models.registry import create_model, list_models, model_config
from tost.models.sequence import SequenceState, ToSTSequence
from tost.models.sequence_config import SequenceConfig
from tost.models.streaming import Reading, Streaming
from tost.models.vision import ToSTVision
from tost.models.vision_config import VisionConfig

__all__ = [
    "Reading",
    "SequenceConfig",
    "SequenceState",
    "Streaming",
    "ToST",
    "ToSTSequence",
    "ToSTVision",
    "VisionConfig",
    "create_model",
    "from_official",
    "list_models",
    "model_config",
    "to_official",
]
