import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.models.language.common import tiny_config
from tost.models.language import (
    PRESETS,
    ToSTConfig,
    ToSTForCausalLM,
    ToSTForSequenceClassification,
    ToSTModel,
    preset,
)


@pytest.mark.parametrize(("name", "millions"), [("base", 110), ("medium", 304), ("large", 655)])
def test_published_sizes(name, millions):
    with torch.device("meta"):
        model = ToSTForCausalLM(preset(name))
    counted = sum(p.numel() for p in model.parameters()) - model.model.positions.weight.numel()  # as nanoGPT counts
    assert round(counted / 1e6) == millions
    heads = {layer.mixer.head_dim for layer in model.model.blocks}
    assert heads == {64}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_changes(name):
    config = preset(name, vocab_size=99, position_mode="none")
    assert config.vocab_size == 99 and config.position_mode == "none"
    assert config.hidden_size == PRESETS[name].get("hidden_size", 768)


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'; choose one of nano, tiny, base, medium, large"):
        preset("huge")
    with pytest.raises(ValueError, match="no option 'hiden_size'; did you mean hidden_size"):
        preset("base", hiden_size=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 25}, "hidden_size that num_attention_heads divides"),
        ({"position_mode": "sinusoid"}, "position_mode in"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of at least 1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**options)


def test_auto_classes_know_it(tmp_path):
    config = tiny_config(num_labels=4, position_mode="clamped")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, ToSTConfig) and again.to_diff_dict() == config.to_diff_dict()
    for auto, kind in [
        (AutoModel, ToSTModel),
        (AutoModelForCausalLM, ToSTForCausalLM),
        (AutoModelForSequenceClassification, ToSTForSequenceClassification),
    ]:
        assert type(auto.from_config(again)) is kind
