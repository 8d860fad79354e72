"""The causal language model, a Hugging Face model: importing this registers it with transformers' Auto classes."""

from tost.extras import require

require("transformers", extra="language")

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from tost.models.language.block import ToSTBlock  # noqa: E402
from tost.models.language.cache import StateLayer, resume, select_state, state_nbytes  # noqa: E402
from tost.models.language.config import ToSTConfig  # noqa: E402
from tost.models.language.heads import ToSTForCausalLM, ToSTForSequenceClassification  # noqa: E402
from tost.models.language.modeling import ToSTModel, ToSTPreTrainedModel  # noqa: E402
from tost.models.language.official import config_from_official, from_official, to_official  # noqa: E402
from tost.models.language.presets import PRESETS, preset  # noqa: E402
from tost.models.language.saved import load_state, save_state  # noqa: E402

AutoConfig.register(ToSTConfig.model_type, ToSTConfig)
AutoModel.register(ToSTConfig, ToSTModel)
AutoModelForCausalLM.register(ToSTConfig, ToSTForCausalLM)
AutoModelForSequenceClassification.register(ToSTConfig, ToSTForSequenceClassification)

__all__ = [
    "PRESETS",
    "StateLayer",
    "ToSTBlock",
    "ToSTConfig",
    "ToSTForCausalLM",
    "ToSTForSequenceClassification",
    "ToSTModel",
    "ToSTPreTrainedModel",
    "config_from_official",
    "from_official",
    "load_state",
    "preset",
    "resume",
    "save_state",
    "select_state",
    "state_nbytes",
    "to_official",
]
