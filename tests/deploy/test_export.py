"""Exported graphs, run by their own runtimes, compute what the models compute, at sizes that the export never saw."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.language.common import text, tiny
from tests.nn.helpers import scramble
from tests.textmodels import save_model
from tost.cli import main
from tost.deploy import export_check
from tost.deploy.export import PACKAGES, Exported, export_model
from tost.deploy.export_graphs import Axis, Case, Graph, Limits
from tost.deploy.export_run import export_run
from tost.deploy.export_samples import real_images
from tost.models import ToST, ToSTSequence, ToSTVision
from tost.models.sequence_config import SequenceConfig
from tost.models.vision_config import VisionConfig
from tost.nn import TSSA2d
from tost.ops.scan import _one_triangle, decayed_sum

EXAMPLES = Path(__file__).parents[2] / "examples/edge"
LIMITS = Limits(batch=4, side=24, tokens=40)
MODERN = {
    "num_hidden_layers": 1,
    "position_mode": "none",
    "layer_scale_init": None,
    "conv_width": 3,
    "half_lives": [2, 8, 0],
    "separate_values": True,
    "group_means": True,
    "output_gate": True,
    "head_norm": True,
}
DECAYED = {"num_hidden_layers": 1, "position_mode": "clamped", "half_lives": [2, 8, 0], "layer_scale_init": 1.0}


def vision(patch_size=2, in_chans=1):
    config = VisionConfig("toy", patch_size, 16, 1, 2, 5, in_chans, img_size=8, mlp_ratio=2.0, num_cls_layers=1)
    torch.manual_seed(0)
    model = ToSTVision(config)
    model(torch.randn(8, in_chans, 8, 8))  # in training mode: the batch norms' statistics leave their initial values
    return scramble(model, std=0.3).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of save_pretrained, as a user has them: name -> (folder, model, tokenizer)."""
    folder = tmp_path_factory.mktemp("saved")
    images = vision()
    images.save_pretrained(folder / "vision")
    return {
        "vision": (folder / "vision", images, None),
        "modern": (folder / "modern", *save_model(folder / "modern", **MODERN)),
        "decayed": (folder / "decayed", *save_model(folder / "decayed", **DECAYED)),
    }


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """exported(name, format) -> (model, Exported), written once."""
    known, out = {}, tmp_path_factory.mktemp("exported")

    def get(name, format):
        for package in PACKAGES[format]:
            pytest.importorskip(package)
        if (name, format) not in known:
            source, model, _ = saved[name]
            export_run(source, out / f"{name}-{format}", format, limits=LIMITS)
            known[name, format] = model, Exported(out / f"{name}-{format}")
        return known[name, format]

    return get


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(torch.from_numpy(np.array(found)), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_images_of_any_size(exported, format):
    model, done = exported("vision", format)
    for size in [(1, 1, 4, 4), (1, 1, 24, 6), (4, 1, 10, 12), (2, 1, 24, 24)]:
        images = torch.randn(size)
        with torch.no_grad():
            close(done.call("model", images.numpy())[0], model(images))


def streamed(done, tokens, cuts):
    """(logits [B, V] after every cut, the state) of tokens fed in these parts."""
    inputs = done.manifest["graphs"][0]["inputs"][1:]
    state = [np.zeros([len(tokens), *entry["shape"][1:]], entry["dtype"]) for entry in inputs]
    logits = []
    for part in tokens.split(cuts, 1):
        out = done.call("decode" if part.shape[1] == 1 else "prefill", part.numpy(), *state)
        logits.append(out[0])
        state = out[1:]
    return logits, state


@pytest.mark.parametrize(("name", "format"), [("modern", "onnx"), ("decayed", "pt2")])
def test_a_text_in_any_parts(exported, name, format):
    model, done = exported(name, format)
    tokens = text(40, batch=3)
    with torch.no_grad():
        expected = model(tokens).logits
    ends = []
    for cuts in ([40], [1] * 40, [1, 7, 32], [37, 2, 1]):
        logits, state = streamed(done, tokens, cuts)
        for found, end in zip(logits, np.cumsum(cuts)):
            close(found, expected[:, end - 1])
        ends.append(state)
    for other in ends[1:]:  # the state is the same however it was reached
        for found, known in zip(other, ends[0]):
            np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 40])
@pytest.mark.parametrize("start", [False, True], ids=["zero", "base"])
def test_sums_by_one_triangle(length, start):
    x, decay = torch.randn(2, length, 3, 4), torch.tensor([0.5, 0.99, 1.0])
    base = torch.randn(2, 3, 4).double() * start
    for found, expected in zip(_one_triangle(x, decay, base), decayed_sum(x, decay, base)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_feature_map_in_half_precision(tmp_path):
    pytest.importorskip("onnxruntime")
    layer = scramble(TSSA2d(16, 4), std=0.3).eval()
    manifest = export_model(layer, tmp_path / "map", "onnx", limits=LIMITS, precision="float16")
    assert {entry["dtype"] for entry in manifest["graphs"][0]["inputs"]} == {"float16"}
    done, x = Exported(tmp_path / "map"), torch.randn(3, 16, 9, 20).half()
    found = done.call("model", x.numpy())[0]
    assert found.dtype == np.float16
    with torch.no_grad():
        close(found, layer.half()(x), 1e-2)


@pytest.mark.parametrize("format", ["executorch", "openvino"])
def test_a_feature_map_of_any_size(format, tmp_path):
    for package in PACKAGES[format]:
        pytest.importorskip(package)
    layer = scramble(TSSA2d(8, 2), std=0.3).eval()
    export_model(layer, tmp_path / "map", format, limits=LIMITS)
    done = Exported(tmp_path / "map")
    for size in [(1, 8, 2, 2), (4, 8, 24, 3), (3, 8, 11, 17)]:
        x = torch.randn(size)
        with torch.no_grad():
            close(done.call("model", x.numpy())[0], layer(x))


def encoder():
    return scramble(ToST(2, 24, 3, mlp_ratio=2.0), std=0.3), lambda size: torch.randn(*size, 24)


def classifier(**options):
    config = SequenceConfig(dim=24, num_layers=1, num_heads=3, mlp_dim=24, num_classes=4, vocab_size=9, **options)
    return scramble(ToSTSequence(config), std=0.3), lambda size: torch.randint(9, size)


@pytest.mark.parametrize("make", [encoder, classifier], ids=lambda make: make.__name__)
def test_sequences_of_any_length(make, tmp_path):
    model, draw = make()
    export_model(model.eval(), tmp_path / "out", "pt2", limits=LIMITS)
    done = Exported(tmp_path / "out")
    for size in [(1, 1), (3, 23), (4, 40)]:
        x = draw(size)
        with torch.no_grad():
            close(done.call("model", x.numpy())[0], model(x))


SMALLEST = {
    "images": (lambda: vision(4, in_chans=3), Limits(batch=1, side=24), (1, 3, 12, 16)),
    "sequence": (lambda: encoder()[0].eval(), Limits(batch=1, tokens=40), (1, 23, 24)),
    "map": (lambda: scramble(TSSA2d(8, 2), std=0.3).eval(), Limits(batch=1, side=2), (1, 8, 2, 2)),
}


@pytest.mark.parametrize(
    ("name", "format"), [("images", "executorch"), ("map", "onnx"), ("map", "openvino"), ("sequence", "pt2")]
)
def test_a_limit_may_leave_one_size(name, format, tmp_path):
    for package in PACKAGES[format]:
        pytest.importorskip(package)
    make, limits, size = SMALLEST[name]
    model, x = make(), torch.randn(size)
    export_model(model, tmp_path / "out", format, limits=limits)
    with torch.no_grad():
        close(Exported(tmp_path / "out").call("model", x.numpy())[0], model(x))


def test_one_stream_token_by_token(tmp_path):
    """Of one sequence and one token a call, prefill is decode."""
    model = tiny().eval()
    export_model(model, tmp_path / "out", "pt2", limits=Limits(batch=1, tokens=1))
    done, tokens = Exported(tmp_path / "out"), torch.randint(model.config.vocab_size, (1, 3))
    state = [np.zeros(e["shape"][1:], e["dtype"])[None] for e in done.manifest["graphs"][0]["inputs"][1:]]
    for name, token in zip(("prefill", "decode", "prefill"), tokens[0]):
        logits, *state = done.call(name, np.array([[int(token)]]), *state)
    with torch.no_grad():
        close(logits, model(tokens).logits[:, -1])


def test_eight_bits_are_smaller_and_their_error_is_told(tmp_path):
    pytest.importorskip("onnxruntime")
    model = scramble(TSSA2d(256, 4), std=0.05).eval()
    told = export_model(model, tmp_path / "small", "onnx", limits=LIMITS, precision="int8")
    assert told["bytes"] < 0.4 * 4 * sum(p.numel() for p in model.parameters())
    x = torch.randn(2, 256, 6, 5)
    with torch.no_grad():
        expected = model(x)
    off = np.abs(Exported(tmp_path / "small").call("model", x.numpy())[0] - expected.numpy()).max()
    checked = told["graphs"][0]["checked"]
    assert 0 < checked["difference"] <= checked["tolerance"]
    assert 0 < off <= checked["tolerance"] * float(expected.abs().max())


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(export_check.TOLERANCES, "float32", 1e-12)
    with pytest.raises(ValueError, match=r"output output differs .* allowed is 1e-12; nothing is written"):
        export_model(TSSA2d(4, 2).eval(), tmp_path / "out", "pt2", limits=LIMITS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (lambda x: [2 * x], "differs"),
        (lambda x: [x[:1]], "differs"),
        (lambda x: [x * np.nan], "differs"),
        (lambda x: [x, x], "expected 1 outputs"),
    ],
    ids=["twice", "shape", "nan", "count"],
)
def test_the_check_can_fail(outputs, told):
    axes = {"x": {0: Axis("batch", 4)}}
    graph = Graph("model", torch.nn.Identity(), torch.nn.Identity(), axes, ["y"], [Case((torch.ones(2, 3),))])
    assert export_check.check(graph, lambda x: [x])["difference"] == 0
    with pytest.raises(ValueError, match=told):
        export_check.check(graph, outputs)


MISTAKES = {
    "format": (lambda: (encoder()[0], {"format": "tflite"}), "one of onnx, executorch, openvino, pt2"),
    "precision": (lambda: (encoder()[0], {"precision": "int4"}), "float32, float16 or int8"),
    "int8-pt2": (lambda: (encoder()[0], {"format": "pt2", "precision": "int8"}), "onnx alone"),
    "opset": (lambda: (encoder()[0], {"opset": 9}), "--opset is 18 to 23, got 9"),
    "opset-pt2": (lambda: (encoder()[0], {"format": "pt2", "opset": 18}), "of onnx alone"),
    "image": (lambda: (vision(), {"limits": Limits(side=4)}), "8 x 8 pixels, the limit is 4; raise --max-side"),
    "growing": (lambda: (tiny(mixer=["tssa", "softmax"]), {}), "softmax in layer 1"),
    "half": (lambda: (tiny(), {"precision": "float16"}), "state is float64"),
    "pair": (lambda: (classifier(pair=True)[0], {}), "model of pairs"),
    "layer": (lambda: (torch.nn.Linear(3, 3), {}), "got a Linear"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path):
    make, told = MISTAKES[name]
    model, options = make()
    with pytest.raises(ValueError, match=told):
        export_model(model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["onnx", "executorch", "openvino"])
def test_a_missing_package_is_named(format, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[format][-1], None)
    with pytest.raises(ImportError, match=r"tost-transformer\[deploy\]"):
        export_model(encoder()[0], tmp_path / "out", format)


def run(name, *arguments):
    """A runner of examples/edge in a process of its own that ends with what it loaded."""
    script = "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {0!r})\n"
    script += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    script += "finally: print('torch' in sys.modules, file=sys.stderr)"
    command = [
        sys.executable,
        "-c",
        script.format(str(EXAMPLES)),
        str(EXAMPLES / f"run_{name}.py"),
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100)
    return done.returncode, done.stdout, done.stderr


def test_the_runner_writes_what_generate_writes(saved, exported):
    _, model, tokenizer = saved["modern"]
    ids = tokenizer("the cat sat on the mat, and", return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
    code, printed, told = run("onnx", exported("modern", "onnx")[1].folder, "the cat sat on the mat, and", 12)
    assert (code, told) == (0, "False\n")
    assert printed.rstrip("\n") == tokenizer.decode(out, clean_up_tokenization_spaces=False).rstrip("\n")


@pytest.mark.skipif(find_spec("sklearn") is None, reason="its photographs")
def test_the_runner_names_an_image(exported, tmp_path):
    import sklearn
    from PIL import Image

    model, done = exported("vision", "onnx")
    photo = Path(sklearn.__file__).parent / "datasets/images/flower.jpg"
    code, printed, told = run("onnx", done.folder, photo)
    assert (code, told) == (0, "False\n")
    with torch.no_grad():
        scores = model(real_images(model, done.manifest["preprocessing"])[0])[0].softmax(0)
    first = printed.splitlines()[0].split()
    assert first[1] == str(int(scores.argmax()))
    assert abs(float(first[0].rstrip("%")) - 100 * float(scores.max())) < 3  # pillow resizes where torch did
    Image.new("RGB", (400, 4)).save(tmp_path / "long.png")
    code, _, told = run("onnx", done.folder, tmp_path / "long.png")
    assert code == 1 and "the graph takes 24 a side" in told


def test_the_command_tells_what_it_checked(saved, capsys, tmp_path):
    out = str(tmp_path / "out")
    command = ["export", str(saved["vision"][0]), "--format", "pt2", "--out", out, "--max-side", "24"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "model (any batch, height, width): equals the model within" in printed and "2 real inputs" in printed
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["format"] == "pt2" and set(manifest["files"]) == {"model.pt2"}
    assert manifest["graphs"][0]["inputs"][0]["shape"] == ["batch", 1, "height", "width"]
    for arguments, told in [
        (command, "give --overwrite"),
        ([*command[:-4], "--out", str(tmp_path)], "choose another"),
        (["export", str(tmp_path / "absent")], "no such run"),
        ([*command, "--int8", "--half"], "two precisions"),
        ([*command[:2], "--opset", "9"], "--opset is 18 to 23"),
    ]:
        assert main(arguments) == 2
        assert told in capsys.readouterr().err


def test_a_damaged_export_is_told(exported, tmp_path):
    for file in exported("modern", "onnx")[1].folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / "decode.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "decode.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"decode\.onnx is missing or damaged"):
        Exported(tmp_path)
    code, _, told = run("onnx", tmp_path, "the cat")
    assert code == 1 and "decode.onnx is damaged" in told
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="no whole manifest"):
        Exported(tmp_path)
