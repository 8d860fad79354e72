"""Runs in eight bits: what is saved computes what was judged, and nothing is saved that lost more than is allowed."""

# B batch, N tokens, C features

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tost.cli import main
from tost.deploy import load_quantized, quantize_run
from tost.deploy.forms import weight_bytes
from tost.deploy.quality import Quality, judge_of
from tost.deploy.quantize import QuantizationRefused
from tost.models import create_model
from tost.models.language import ToSTForCausalLM, preset
from tost.models.quantized import by_row, quantize_model, save_quantized
from tost.nn import TSSA, CausalTSSA, TSSA2d
from tost.nn.int8 import Int8CausalTSSA, Int8TSSA, gates_to_int8
from tost.ops import TSSAState
from tost.training import load_run, train

pytest.importorskip("torchao")

IMAGES = {
    "model.name": "tost_nano_6_p2",
    "model.options": {"dim": 32, "num_layers": 2, "num_heads": 2, "num_cls_layers": 1},
    "run.batch_size": 64,
    "run.epochs": 2,
    "optim.warmup_epochs": 0.3,
}
TEXT = {
    "model.preset": "nano",
    "model.options": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "layer_scale_init": 1.0},
    "data.tokenizer": "bytes",
    "data.context": 32,
    "data.test": 0.3,
    "optim.warmup_steps": 5,
    "run.batch_size": 8,
    "run.steps": 30,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return train("vision-digits", **{**IMAGES, "run.folder": str(tmp_path_factory.mktemp("runs"))})


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "text").mkdir()
    for i in range(30):
        (folder / "text" / f"{i}.txt").write_text(" ".join(f"{'abc'[(i + k) % 3]}{k % 4}" for k in range(5 + i % 7)))
    return train("lm-text", **{**TEXT, "data.path": str(folder / "text"), "run.folder": str(folder / "runs")})


@pytest.fixture
def copy(tmp_path):
    """A copy of a run whose tensors `change` may alter."""

    def make(run, change):
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file({name: t.contiguous() for name, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def sure_of_seven(weights):
    """The answer no longer depends on the image, so that no rounding changes it."""
    weights["head.weight"], weights["head.bias"] = torch.zeros(10, 32), torch.eye(10)[7]


def outlier_channel(weights):
    """The same function, with one feature of 2000 times the size between a norm and the layer behind it."""
    for norm, layer in (("norm1", "mixer.in_proj"), ("norm2", "mlp.fc1")):
        weights[f"model.blocks.0.{norm}.weight"][3] *= 2000
        weights[f"model.blocks.0.{layer}.weight"][:, 3] /= 2000


def outlier_feature(weights):
    """One projected feature that drowns its head: in a scale that holds it all others are 0."""
    for row in (0, 16):
        weights["model.blocks.0.mixer.in_proj.weight"][row] *= 3e4


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found, expected, allowed):
    assert (found - expected).abs().max() <= allowed * expected.abs().max()


@torch.no_grad()
def test_the_layers_compute_nearly_what_the_float_layers_do():
    x, mask = tokens(2, 40, 32), torch.rand(2, 40, generator=torch.Generator().manual_seed(1)) > 0.2
    for layer in (TSSA(32, 4), CausalTSSA(32, 4, max_positions=20, clamp_positions=True, decay=0.95)):
        layer.eval().temperature.uniform_(0.5, 2)
        expected = layer(x, mask=mask)
        bare = gates_to_int8(nn.ModuleList([layer]))
        assert bare == 1 and type(layer) in (Int8TSSA, Int8CausalTSSA)
        near(layer(x, mask=mask)[mask], expected[mask], 0.05)
        assert not torch.equal(layer(x, mask=mask)[mask], expected[mask])
    layer = TSSA2d(16, 2).eval()
    image = tokens(1, 16, 5, 7).contiguous(memory_format=torch.channels_last)
    expected = layer(image)
    gates_to_int8(nn.ModuleList([layer]))
    near(layer(image), expected, 0.05)


@torch.no_grad()
def test_a_stream_of_integers_goes_on_where_it_stopped():
    layer = CausalTSSA(32, 4, max_positions=10, clamp_positions=True).eval()
    layer.position_bias.normal_()
    gates_to_int8(nn.ModuleList([layer]))
    x = tokens(2, 25, 32)
    whole, end = layer(x, return_state=True)
    head, state = layer(x[:, :13], return_state=True)
    tail, last = layer(x[:, 13:], state=state, return_state=True)
    assert torch.equal(torch.cat([head, tail], 1), whole)
    assert all(torch.equal(a, b) for a, b in zip(last, end)) and last.length.tolist() == [25, 25]
    assert not any(part.is_floating_point() for part in last) and len(TSSAState._fields) == 4


def test_training_and_nan_are_refused():
    layer = TSSA(32, 4)
    gates_to_int8(nn.ModuleList([layer]))
    with pytest.raises(ValueError, match=r"has no gradient, and is for inference; call model.eval\(\)"):
        layer(tokens(1, 5, 32))
    with pytest.raises(ValueError, match="expects finite w"):
        layer.eval()(tokens(1, 5, 32) * float("nan"))


@torch.no_grad()
@pytest.mark.parametrize(("linear", "gates"), [("dynamic", True), ("weight", False), ("none", True)])
def test_a_vision_model_comes_back_as_it_was(linear, gates, tmp_path, digits):
    model, _ = load_run(digits)
    x, before = tokens(3, 1, 8, 8), dict(model.named_parameters())
    weights = {name: p.clone() for name, p in before.items()}
    expected = model(x)
    how = quantize_model(model, linear, gates)
    found = model(x)
    near(found, expected, 0.1)
    for name in how.layers:
        layer, original = model.get_submodule(name), weights[f"{name}.weight"]
        assert layer.weight.qdata.dtype == torch.int8
        step = layer.weight.scale
        assert ((layer.weight.dequantize() - original).abs() <= 0.51 * step).all()
    assert (bool(how.layers) == (linear != "none") and "blocks.0.mixer.in_proj" in how.layers) or linear == "none"
    assert not any(name.startswith("cls_blocks.0.attn") for name in how.layers)
    shutil.copyfile(digits / "config.json", tmp_path / "config.json")
    save_quantized(model, tmp_path)
    again = load_quantized(tmp_path)
    assert torch.equal(again(x), found) and again.quantization == how and not again.training
    size, full = (p.stat().st_size for p in (tmp_path / "model.int8.safetensors", digits / "model.safetensors"))
    assert size < (0.6 if linear != "none" else 1.01) * full
    assert all(p.suffix in (".safetensors", ".json") for p in tmp_path.iterdir())
    if linear != "none":
        assert weight_bytes(model) < 0.7 * sum(4 * w.numel() for w in weights.values())


@torch.no_grad()
def test_a_language_model_comes_back_and_writes_as_it_did(tmp_path):
    torch.manual_seed(0)
    model = ToSTForCausalLM(preset("nano", vocab_size=300, hidden_size=64, num_hidden_layers=2, layer_scale_init=1.0))
    model.eval().config.save_pretrained(tmp_path)
    ids = torch.randint(0, 300, (2, 20))
    quantize_model(model, "dynamic", gates=True)
    assert "lm_head" not in model.quantization.layers and model.quantization.stored == [
        "model.embedding.weight",
        "model.positions.weight",
    ]
    assert type(model.model.blocks[0].mixer) is Int8CausalTSSA
    logits = model(ids, use_cache=False).logits
    save_quantized(model, tmp_path)
    again = load_quantized(tmp_path)
    assert torch.equal(again(ids, use_cache=False).logits, logits)
    assert again.lm_head.weight is again.model.embedding.weight
    step = model(ids[:, :11], use_cache=True)
    rest = model(ids[:, 11:], past_key_values=step.past_key_values, use_cache=True).logits
    assert torch.equal(torch.cat([step.logits, rest], 1).argmax(-1), logits.argmax(-1))
    written = again.generate(ids[:1], max_new_tokens=8, do_sample=False, pad_token_id=0)
    for _ in range(8):
        ids = torch.cat([ids[:1], again(ids[:1], use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert written.tolist() == ids.tolist()


def test_rows_are_rounded_to_the_nearest():
    weight = tokens(7, 33)
    weight[2] = 0
    values, scale = by_row(weight)
    assert values.dtype == torch.int8 and (values.abs().amax(1)[[0, 1, 3]] == 127).all() and not values[2].any()
    assert ((values * scale - weight).abs() <= 0.5001 * scale).all()


def test_what_cannot_be_quantised():
    model = create_model("tost_nano_6_p4", num_classes=3, mixer="softmax")
    with pytest.raises(ValueError, match="no gates to quantise"):
        quantize_model(model, "none", gates=True)
    model = create_model("tost_nano_6_p4", num_classes=3)
    with pytest.raises(ValueError, match="nothing to quantise"):
        quantize_model(model, "none")
    with pytest.raises(ValueError, match="linear is one of dynamic, weight, none, got 'int4'"):
        quantize_model(model, "int4")
    quantize_model(model, "weight")
    with pytest.raises(ValueError, match="quantised already"):
        quantize_model(model, "weight")


def test_the_judge_is_the_runs_own_evaluation(digits, text):
    for run, name in ((digits, "accuracy"), (text, "loss")):
        model, recipe = load_run(run)
        quality = judge_of(run, recipe)(model, "float32")
        expected = json.loads((run / "summary.json").read_text())["test"]
        assert (quality.accuracy if name == "accuracy" else quality.nats) == pytest.approx(expected[name], rel=1e-5)
    assert Quality(0.9, 1.0, 10).lost(Quality(0.896, 9.0, 10)) == pytest.approx(0.4)
    assert Quality(None, 1.0, 10).lost(Quality(None, 1.02, 10)) == pytest.approx(0.02)
    assert (Quality(0.9, 1.0, 10).limit, Quality(None, 1.0, 10).limit) == (0.3, 0.01)


def test_the_command_measures_saves_and_refuses_the_second_time(text, capsys):
    assert main(["quantize", str(text), "--gates"]) == 0
    printed = capsys.readouterr().out
    folder = text.with_name(f"{text.name}-int8")
    for told in ("float32", "bfloat16", "int8 linear (dynamic) |", "int8 linear (dynamic) + gates |", "next token"):
        assert told in printed
    assert printed.endswith(f"saved in {folder}\n")
    assert not [p for p in text.parent.iterdir() if p.name.endswith(".part")]
    model = load_quantized(folder)
    rows = model.quantization.measured["rows"]
    assert [row["form"] for row in rows][:2] == ["float32", "bfloat16"] and rows[-1]["file"] < 0.7 * rows[0]["file"]
    _, recipe = load_run(text)
    assert judge_of(text, recipe)(model, "again").nats == rows[-1]["nats"]  # to the last bit
    assert (folder / "README.md").read_text().count("| float32 |") == 1 and (folder / "tokenizer.json").is_file()
    assert main(["quantize", str(text)]) == 2
    assert f"{folder} exists; remove it" in capsys.readouterr().err
    assert main(["quantize", str(folder)]) == 2
    assert "is quantised already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "linear", "gates"),
    [(outlier_channel, "dynamic", False), (outlier_feature, "none", True)],
    ids=["activations", "gates"],
)
def test_a_run_that_loses_is_refused_with_the_table(spoil, linear, gates, copy, text, capsys):
    folder = copy(text, spoil)
    options = ["--linear", linear, "--measure", "false", *(["--gates"] if gates else [])]
    assert main(["quantize", str(folder), *options]) == 2
    printed = capsys.readouterr()
    assert "| float32 |" in printed.out and "allowed; nothing was written" in printed.err
    assert [p.name for p in folder.parent.iterdir()] == ["run"]
    with pytest.raises(QuantizationRefused) as refused:
        quantize_run(folder, linear=linear, gates=gates, measure=False)
    assert "| lost, " in refused.value.table


def test_damaged_files_are_refused_in_one_line(copy, digits, tmp_path):
    folder = copy(digits, sure_of_seven)
    made = quantize_run(folder, linear="weight", measure=False)["folder"]
    weights, about = (tmp_path / "run-int8" / name for name in ("model.int8.safetensors", "quantization.json"))
    assert str(tmp_path / "run-int8") == made
    whole, told = weights.read_bytes(), about.read_text()
    for path, content, expected in (
        (weights, whole[:1000], "not a whole safetensors file"),
        (about, "{", "quantise the run again"),
        (about, told.replace("tost-int8-1", "tost-int8-9"), "its format is 'tost-int8-9'"),
        (about, "[]", "quantise the run again"),
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=expected) as error:
            load_quantized(made)
        assert "\n" not in str(error.value)
        weights.write_bytes(whole), about.write_text(told)
    tensors = load_file(weights)
    del tensors["cls_token"]
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"does not hold the model of its config.json: cls_token"):
        load_quantized(made)
    with pytest.raises(ValueError, match="holds no model in eight bits"):
        load_quantized(folder)


def test_bad_input(digits, tmp_path, monkeypatch):
    for options, told in (
        ({"bits": 4}, "quantize knows 8 bits, got 4"),
        ({"linear": "none"}, "nothing to quantise"),
        ({"out": tmp_path}, "exists; remove it"),
    ):
        with pytest.raises(ValueError, match=told):
            quantize_run(digits, measure=False, **options)
    with pytest.raises(ValueError, match="no such run"):
        quantize_run(tmp_path / "absent")
    shutil.copytree(digits, tmp_path / "begun", ignore=shutil.ignore_patterns("summary.json"))
    with pytest.raises(ValueError, match="is not finished"):
        quantize_run(tmp_path / "begun")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setitem(sys.modules, "torchao.utils", None)
    with pytest.raises(ImportError, match="torchao"):
        quantize_run(digits, measure=False, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
