"""One causal model over images and text: importing this registers it with transformers' Auto classes."""

from tost.extras import require

require("transformers", extra="language")

from transformers import (  # noqa: E402
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from tost.models.multimodal.config import ToSTMultimodalConfig  # noqa: E402
from tost.models.multimodal.modeling import ToSTForImageTextToText, ToSTMultimodalModel  # noqa: E402
from tost.models.multimodal.patches import ImageTokens  # noqa: E402
from tost.models.multimodal.processor import IMAGE_TOKEN, ToSTImageProcessor, ToSTProcessor  # noqa: E402

AutoConfig.register(ToSTMultimodalConfig.model_type, ToSTMultimodalConfig)
AutoModel.register(ToSTMultimodalConfig, ToSTMultimodalModel)
AutoModelForImageTextToText.register(ToSTMultimodalConfig, ToSTForImageTextToText)
AutoImageProcessor.register(ToSTMultimodalConfig, image_processor_classes={"pil": ToSTImageProcessor})
AutoProcessor.register(ToSTMultimodalConfig, ToSTProcessor)

__all__ = [
    "IMAGE_TOKEN",
    "ImageTokens",
    "ToSTForImageTextToText",
    "ToSTImageProcessor",
    "ToSTMultimodalConfig",
    "ToSTMultimodalModel",
    "ToSTProcessor",
]
