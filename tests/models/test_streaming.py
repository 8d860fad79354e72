"""Many streams through one model: each says what it would say alone, whatever the others do."""

import random

import pytest
import torch
from torch.testing import assert_close

from tost.models import SequenceConfig, ToSTSequence
from tost.models.streaming import Streaming
from tost.nn.states import state_tensors


def build(seed=0, **options):
    torch.manual_seed(seed)
    options = {"in_features": 3, "num_classes": 5, "dim": 32, "num_layers": 2, "mlp_dim": 48} | options
    model = ToSTSequence(SequenceConfig(causal=True, **options)).eval()
    for parameter in model.parameters():  # no zeros or ones left as they were initialised
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def alone(model, x):
    """Features and logits after every step of one series, in one pass."""
    with torch.no_grad():
        logits, features, _ = model.stream(x[None])
    return features[0], logits[0]


OPTIONS = [
    {},
    {"decay": 0.9},
    {"pool": "max", "positions": "learned"},
    {"pool": "last", "decay": 0.97, "positions": "none"},
    {"per_token": True},
    {"mixer": "token"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())) or "default")
def test_every_stream_is_as_if_alone(options):
    """Random joins, drops, resets, forks and pushes of 1 to 9 steps, against each series in one pass."""
    model, rng = build(**options), random.Random(1)
    streams, series, fresh = Streaming(model), {}, iter(range(10**6))
    for turn in range(36):
        if turn % 3 == 0 or not series:
            new = [f"s{next(fresh)}" for _ in range(rng.randint(1, 6))]
            streams.join(new)
            series |= {name: torch.zeros(0, 3) for name in new}
        if turn % 5 == 4:
            gone = rng.sample(sorted(series), k=len(series) // 3)
            streams.drop(gone)
            for name in gone:
                del series[name]
        if turn % 11 == 7:
            name, copy = rng.choice(sorted(series)), f"s{next(fresh)}"
            streams.fork(name, copy)
            series[copy] = series[name].clone()
            streams.reset(name)
            series[name] = torch.zeros(0, 3)
        chosen = rng.sample(sorted(series), k=max(1, len(series) // 2))
        steps = {name: torch.randn(rng.randint(1, 9), 3) for name in chosen}
        readings = streams.push(steps, every=turn % 2 == 0)
        assert list(readings) == chosen
        for name, x in steps.items():
            series[name] = torch.cat([series[name], x])
            features, logits = alone(model, series[name])
            last = slice(-len(x), None) if turn % 2 == 0 else -1
            assert_close(readings[name].features, features[last], rtol=1e-5, atol=1e-6)
            assert_close(readings[name].logits, logits[last], rtol=1e-5, atol=1e-6)
            assert streams.steps(name) == len(series[name])
    assert set(streams.names) == set(series) and len(streams) == len(series)


@pytest.mark.parametrize("decay", [None, 0.95])
def test_a_thousand_streams(decay):
    model = build(decay=decay)
    streams = Streaming(model)
    names = [f"pump-{i}" for i in range(1000)]
    x = torch.randn(1000, 6, 3)
    streams.join(names)
    for step in range(6):
        readings = streams.push({name: row[step] for name, row in zip(names, x)})
    with torch.no_grad():
        logits = model(x)
    assert_close(torch.stack([readings[name].logits for name in names]), logits, rtol=1e-5, atol=1e-6)
    alone_ = torch.stack([alone(model, x[i])[1][-1] for i in range(0, 1000, 50)])
    assert_close(torch.stack([readings[name].logits for name in names[::50]]), alone_, rtol=1e-5, atol=1e-6)
    assert_close(readings["pump-7"].probabilities.sum(), torch.tensor(1.0))


def test_float64_agrees_to_rounding():
    model = build(decay=0.9).double()
    streams, x = Streaming(model), torch.randn(3, 20, 3)
    streams.join(["a", "b", "c"])
    for lengths in ([1, 7, 2], [13, 3, 1], [6, 10, 17]):
        starts = [streams.steps(name) for name in "abc"]
        push = {name: x[i, starts[i] : starts[i] + lengths[i]] for i, name in enumerate("abc")}
        readings = streams.push(push)
    for i, name in enumerate("abc"):
        assert_close(readings[name].logits, alone(model, x[i])[1][-1], rtol=0, atol=1e-12)


def test_nobody_else_moves_by_a_bit():
    streams = Streaming(build(decay=0.9))
    streams.join(["a", "b", "c"])
    streams.push({name: torch.randn(4, 3) for name in "abc"})
    slot = streams._slots["b"]
    before = {name: part[slot].clone() for name, part in state_tensors(streams._state).items()}
    streams.push({"a": torch.randn(3, 3), "c": torch.randn(1, 3)})
    streams.join(f"n{i}" for i in range(40))  # the tensors grow
    streams.drop("a"), streams.reset("c"), streams.fork("c", "d")
    for name, part in state_tensors(streams._state).items():
        assert torch.equal(part[slot], before[name]), name


def test_slots_are_used_again():
    streams = Streaming(build())
    for turn in range(50):
        names = [f"{turn}-{i}" for i in range(6)]
        streams.join(names)
        streams.push({name: torch.randn(2, 3) for name in names})
        streams.drop(names)
    assert streams._state.length.shape == (8,) and len(streams) == 0
    streams.join("late")
    assert streams.steps("late") == 0


def test_ids_stream_too():
    model = build(in_features=0, vocab_size=11)
    streams, ids = Streaming(model), torch.randint(0, 11, (9,))
    streams.join("text")
    streams.push({"text": ids[:4]})
    streams.push({"text": int(ids[4])})
    reading = streams.push({"text": ids[5:].numpy()}, every=True)["text"]
    assert_close(reading.logits, alone(model, ids)[1][5:], rtol=1e-5, atol=1e-6)
    for bad in (11, -1, 2.5, ids[None]):
        with pytest.raises(ValueError, match="'text'"):
            streams.push({"text": bad})


def test_without_a_classifier_the_pooled_features_come():
    model = build(num_classes=0)
    streams, x = Streaming(model), torch.randn(7, 3)
    streams.join("a")
    reading = streams.push({"a": x})["a"]
    assert_close(reading.logits, alone(model, x)[0].mean(0), rtol=1e-5, atol=1e-6)
    assert reading.features.shape == (32,)


def test_saved_streams_go_on(tmp_path):
    model = build(decay=0.9)
    streams, x = Streaming(model, gaps="hold"), torch.randn(3, 8, 3)
    streams.join(["a", "gone", "b", "c"])
    streams.drop("gone")
    streams.push({name: x[i, : i + 2] for i, name in enumerate("abc")})
    streams.save(tmp_path / "streams.safetensors")
    back = Streaming.load(model, tmp_path / "streams.safetensors", gaps="hold")
    assert back.names == ["a", "b", "c"] and back.steps("c") == 4
    later = torch.full((3, 3), torch.nan)  # the last row is in the file as well
    for name in "abc":
        assert torch.equal(back.push({name: later})[name].logits, streams.push({name: later})[name].logits)


def test_files_are_bound_to_the_model(tmp_path):
    model, path = build(), tmp_path / "streams"
    streams = Streaming(model)
    streams.save(path)  # none yet
    assert Streaming.load(model, path).names == []
    streams.join("a")
    streams.save(path)
    with pytest.raises(ValueError, match="other weights"):
        Streaming.load(build(seed=1), path)
    with pytest.raises(ValueError, match="another configuration"):
        Streaming.load(build(decay=0.5), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Streaming.load(model, path)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds no streams"):
        Streaming.load(model, tmp_path / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({}, "got none"),
        ({"x": torch.zeros(3)}, "no stream 'x': there are 2 \\(a, b\\)"),
        ({"a": torch.zeros(0, 3)}, "'a': no step"),
        ({"a": torch.zeros(4)}, r"'a' expects numbers of shape \[n, 3\] or \[3\], got torch.float32 \[4\]"),
        ({"a": torch.zeros(2, 2, 3)}, "'a' expects"),
        ({"a": "hello"}, "'a' expects .* got str"),
        ({"a": [[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]]}, r"'a', step 1 of this push, feature 1: a gap"),
        ({"a": [1.0, 2.0, float("inf")]}, r"'a', step 0 of this push, feature 2: an infinite"),
    ],
)
def test_a_wrong_push_says_whose_and_takes_no_step(steps, message):
    streams = Streaming(build())
    streams.join(["a", "b"])
    with pytest.raises(ValueError, match=message) as error:
        streams.push({"b": torch.zeros(2, 3), **steps} if steps else steps)
    assert "\n" not in str(error.value)
    assert streams.steps("a") == streams.steps("b") == 0


def test_gaps_are_held_if_asked():
    model, nan = build(), torch.nan
    streams = Streaming(model, gaps="hold")
    streams.join("a")
    streams.push({"a": [[1.0, 2.0, 3.0], [nan, 5.0, nan]]})
    reading = streams.push({"a": [[nan, nan, 7.0], [8.0, nan, nan]]}, every=True)["a"]
    filled = torch.tensor([[1.0, 2, 3], [1, 5, 3], [1, 5, 7], [8, 5, 7]])
    assert_close(reading.logits, alone(model, filled)[1][2:], rtol=1e-5, atol=1e-6)
    streams.reset("a")
    with pytest.raises(ValueError, match=r"'a', step 0 of this push, feature 1: a gap .* begin with a whole step"):
        streams.push({"a": [1.0, nan, 2.0]})
    streams.join("b")
    with pytest.raises(ValueError, match="infinite"):
        streams.push({"b": [1.0, torch.inf, 2.0]})


def test_what_streaming_refuses():
    streams = Streaming(build())
    streams.join("a")
    for wrong in ("a", ["b", "b"], [""], [3]):
        with pytest.raises(ValueError, match=r"there is a stream|names of streams"):
            streams.join(wrong)
    for call in (streams.drop, streams.reset, streams.steps, lambda name: streams.fork(name, "c")):
        with pytest.raises(ValueError, match="no stream 'nobody'"):
            call("nobody")
    with pytest.raises(ValueError, match="there is a stream 'a'"):
        streams.fork("a", "a")
    assert streams.names == ["a"] and "a" in streams
    with pytest.raises(ValueError, match="gaps is one of"):
        Streaming(build(), gaps="zero")
    with pytest.raises(ValueError, match="causal"):
        Streaming(ToSTSequence(SequenceConfig(in_features=3)))
    with pytest.raises(ValueError, match="causal ToSTSequence, got Linear"):
        Streaming(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match="'softmax' keeps every step"):
        Streaming(build(mixer="softmax"))
    streams.model.train()
    with pytest.raises(ValueError, match="training mode"):
        streams.push({"a": torch.zeros(3)})


def test_learned_positions_end():
    streams = Streaming(build(positions="learned", max_length=5))
    streams.join(["a", "b"])
    streams.push({"a": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match="stream 'a' would be 6 steps long"):
        streams.push({"b": torch.zeros(1, 3), "a": torch.zeros(2, 3)})
    assert streams.steps("b") == 0


def test_the_example_of_sensors(capsys):
    from examples.sensors import main

    main(12)
    first, *times = capsys.readouterr().out.splitlines()
    assert first.startswith("12 streams, 3,612 steps") and float(first.split()[-1]) < 1e-5
    assert len(times) == 5
