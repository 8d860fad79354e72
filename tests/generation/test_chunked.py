"""A prompt read in chunks is the prompt read at once."""

import pytest
import torch
from torch.testing import assert_close

from tests.models.language.common import text, tiny
from tost.generation.chunked import prefill
from tost.nn.states import state_tensors

OPTIONS = {
    "published": {},
    "modern": {"position_mode": "none", "conv_width": 4, "half_lives": [4, 0], "separate_values": True},
    "hybrid": {"mixer": ["tssa", "softmax"], "position_mode": "rotary"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 37, 100])
def test_chunks_equal_one_pass(options, chunk):
    model, ids = tiny(**options).double(), text(37, batch=2)
    logits, cache = prefill(model, ids, chunk)
    with torch.no_grad():
        whole = model(ids, use_cache=True)
    assert_close(logits, whole.logits[:, -1], rtol=0, atol=1e-10)
    for layer, at_once in zip(cache.layers, whole.past_key_values.layers):
        assert layer.columns == 37
        for name, part in state_tensors(layer.state).items():
            assert_close(part, state_tensors(at_once.state)[name], rtol=0, atol=1e-10)


def test_it_goes_on_from_a_past():
    model, ids = tiny().double(), text(40)
    _, past = prefill(model, ids[:, :23], 8)
    logits, _ = prefill(model, ids[:, 23:], 8, past=past)
    assert_close(logits, model(ids).logits[:, -1].detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("shape", "chunk"), [((1, 0), 8), ((5,), 8), ((1, 5), 0)])
def test_what_cannot_be_read(shape, chunk):
    with pytest.raises(ValueError, match="prefill expects input_ids"):
        prefill(tiny(), torch.ones(shape, dtype=torch.int64), chunk)
