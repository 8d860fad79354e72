import copy

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from tests.models.language.common import text, tiny, tiny_config
from tost.models.language import (
    StateLayer,
    load_state,
    preset,
    resume,
    save_state,
    select_state,
    state_nbytes,
)
from tost.ops import TSSAState


def fed(model, ids, **options):
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache, **options)
    return cache


def same(a, b):
    assert a.get_seq_length() == b.get_seq_length()
    for one, other in zip(a.layers, b.layers):
        for x, y in zip(one.state, other.state):
            assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_generate_builds_the_layers_by_itself():
    cache = DynamicCache(config=tiny_config(num_hidden_layers=5))
    assert [type(layer) for layer in cache.layers] == [StateLayer] * 5
    assert cache.get_seq_length() == 0 and repr(cache.layers[0]) == "StateLayer(empty)"


@pytest.mark.parametrize("n", [1, 30])
def test_size_is_constant_and_as_documented(n):
    model = tiny().double()
    cache = fed(model, text(n, batch=3))
    H, D, layers = 3, 8, 2
    assert state_nbytes(cache) == 3 * layers * 8 * (H * (2 * D + 1) + 1)
    assert repr(cache.layers[0]) == f"StateLayer(batch=3, tokens={n}, {3 * 8 * (H * (2 * D + 1) + 1) / 1024:.1f} KiB)"


def test_base_is_145_kib_a_sequence():
    config = preset("base")
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        layer.state = TSSAState.zeros(1, config.num_attention_heads, 64)
    assert round(state_nbytes(cache) / 1024) == 145


def test_select_forks_and_reorders():
    model, ids = tiny().double(), text(7, batch=3)
    cache = fed(model, ids)
    fork = select_state(cache, [2, 0, 0])
    same(fork, fed(model, ids[[2, 0, 0]]))
    model(text(4, batch=3, seed=1), past_key_values=fork)
    same(cache, fed(model, ids))  # the original saw nothing of it
    cache.reorder_cache(torch.tensor([1, 1, 2]))
    same(cache, fed(model, ids[[1, 1, 2]]))
    cache.batch_repeat_interleave(2)
    same(cache, fed(model, ids[[1, 1, 1, 1, 2, 2]]))
    cache.batch_select_indices(torch.tensor([5]))
    same(cache, fed(model, ids[[2]]))
    assert cache.batch_size == 1
    with pytest.raises(ValueError, match=r"sequences out of 0..0, got \[1\]"):
        select_state(cache, [1])
    with pytest.raises(ValueError, match="feed a prompt first"):
        select_state(DynamicCache(config=model.config), [0])


def test_forks_continue_each_in_their_own_way():
    model, prompt = tiny(), text(6)
    cache = fed(model, prompt)
    tails = text(3, batch=4, seed=5)
    logits = model(tails, past_key_values=select_state(cache, [0] * 4)).logits
    whole = model(torch.cat([prompt.expand(4, -1), tails], 1)).logits[:, 6:]
    assert_close(logits, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remove", range(9))
@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
def test_roll_back_leaves_no_trace(remove, padded):
    model, ids = tiny().double(), text(13, batch=2)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :2] = mask[1, 7:9] = 0
    cache = fed(model, ids[:, :5], attention_mask=mask[:, :5])
    cache.activate_past_recording()
    for part in (slice(5, 9), slice(9, 10), slice(10, 13)):
        model(ids[:, part], attention_mask=mask[:, part], past_key_values=cache)
    cache.crop(-remove)
    kept = 13 - remove
    same(cache, fed(model, ids[:, :kept], attention_mask=mask[:, :kept]))
    with pytest.raises(ValueError, match="0 at most"):
        cache.crop(-1)


def test_what_was_not_recorded_cannot_be_taken_back():
    model = tiny().double()
    cache = fed(model, text(5))
    with pytest.raises(ValueError, match=r"0 at most, got -2; call cache.activate_past_recording"):
        cache.crop(-2)
    cache.crop(0)
    with pytest.raises(ValueError, match="got 3"):
        cache.crop(3)
    cache.reset()
    same(fed(model, text(4, seed=3)), refeed(model, cache, text(4, seed=3)))


def refeed(model, cache, ids):
    model(ids, past_key_values=cache)
    return cache


def test_a_deep_copy_is_a_snapshot():
    model = tiny().double()
    with torch.no_grad():
        cache = fed(model, text(5))
        twin = copy.deepcopy(cache)
        model(text(3), past_key_values=cache)
    same(twin, fed(model, text(5)))


@pytest.mark.parametrize(
    "cache",
    [DynamicCache(), DynamicCache(config=tiny_config(num_hidden_layers=3))],
    ids=["of softmax", "of another depth"],
)
def test_caches_of_other_models_are_refused(cache):
    with pytest.raises(ValueError, match=r"expected a cache of 2 StateLayers.*DynamicCache\(config=model.config\)"):
        tiny()(text(3), past_key_values=cache)


def test_a_layer_keeps_no_keys():
    layer = StateLayer()
    for method in (layer.update, layer.lazy_initialization):
        with pytest.raises(ValueError, match="keys and values"):
            method(torch.zeros(1), torch.zeros(1))


def test_a_state_saved_and_resumed(tmp_path):
    model, ids, new = tiny().double(), text(9, batch=2), text(3, batch=2, seed=4)
    cache = fed(model, ids)
    save_state(cache, tmp_path / "state.safetensors", model)
    again = load_state(tmp_path / "state.safetensors", tiny().double())
    for one, other in zip(cache.layers, again.layers):
        assert all(torch.equal(x, y) for x, y in zip(one.state, other.state))
    options = {"max_new_tokens": 8, "do_sample": False}
    want = model.generate(torch.cat([ids, new], 1), **options)[:, 9:]
    assert torch.equal(model.generate(**resume(again, new), **options), want)
    half = tiny().to(torch.bfloat16)
    assert torch.isfinite(half(new, past_key_values=load_state(tmp_path / "state.safetensors", half)).logits).all()
    assert [f.name for f in tmp_path.iterdir()] == ["state.safetensors"]


def test_states_of_other_models_are_refused(tmp_path):
    path, model = tmp_path / "state.safetensors", tiny()
    save_state(fed(model, text(3)), path, model)
    with pytest.raises(ValueError, match="a model with another configuration"):
        load_state(path, tiny(position_mode="none"))
    load_state(path, tiny(position_mode="clamped"))  # the same weights: a way past the table
    with pytest.raises(ValueError, match="a model with other weights"):
        load_state(path, tiny(seed=1))
    with pytest.raises(ValueError, match="expected a ToST language model, got Linear"):
        load_state(path, torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="cache of 3 StateLayers"):
        save_state(fed(model, text(3)), path, tiny(num_hidden_layers=3))
    with pytest.raises(ValueError, match="feed a prompt first"):
        save_state(DynamicCache(config=model.config), path, model)
    load_state(path, model)  # a failed save left the file as it was


def test_damaged_files_are_refused(tmp_path):
    model = tiny().double()
    path = tmp_path / "state.safetensors"
    save_state(fed(model, text(3)), path, model)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_state(path, model)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no state that save_state wrote"):
        load_state(path, model)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "absent", model)


def test_resume_asks_for_what_fits():
    model = tiny().double()
    with pytest.raises(ValueError, match="resume expects a cache that has seen tokens"):
        resume(DynamicCache(config=model.config), text(3))
    with pytest.raises(ValueError, match=r"B = 2, got \[1, 3\]; pick or repeat sequences of the cache by select_state"):
        resume(fed(model, text(4, batch=2)), text(3))
