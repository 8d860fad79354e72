"""The video example: statistics against their definition, rivals against plain attention, all kinds of clips."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

av = pytest.importorskip("av")

from examples.video.__main__ import main  # noqa: E402
from examples.video.clip import CutFinder, facts, pictures  # noqa: E402
from examples.video.encoder import grid_for, load_model, rival_named, step, streaming  # noqa: E402
from examples.video.film import Moment, Painter  # noqa: E402
from examples.video.rivals import CachedSoftmax, FullCacheError, Recomputed  # noqa: E402
from examples.video.statistics import FrameStatistics, TokenStatistics, frame_tssa  # noqa: E402
from tost.data.images import normalise  # noqa: E402
from tost.models.vision import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from tost.nn import TSSA  # noqa: E402
from tost.nn.mixers import SoftmaxAttention  # noqa: E402
from tost.ops import causal_tssa, tssa  # noqa: E402

ROOT = Path(__file__).parent.parent


def moving(size, count, start=0):
    """Pictures [height, width, 3] of a slowly moving pattern."""
    y, x = np.mgrid[: size[0], : size[1]]
    for k in range(start, start + count):
        yield np.stack([(x + 4 * k) % 256, (2 * y) % 256, (x + y) % 256], -1).astype(np.uint8)


def write(path, frames, rate=10, codec="libx264", **container):
    """A clip of these pictures."""
    with av.open(str(path), "w", **container) as file:
        stream = None
        for picture in frames:
            if stream is None:
                stream = file.add_stream(codec, rate=rate)
                stream.height, stream.width, stream.pix_fmt, stream.gop_size = *picture.shape[:2], "yuv420p", 5
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds at ten frames a second: a pattern, then from 2 s on its negative."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    dark = (picture // 4 for picture in moving((90, 160), 20))
    return write(path, [*dark, *(255 - picture // 4 for picture in moving((90, 160), 10))])


def series(frames=4, tokens=11, heads=3, width=5):
    torch.manual_seed(0)
    return torch.randn(2, frames, tokens, heads, width, dtype=torch.float64), torch.rand(heads).double() + 0.5


def test_a_frame_alone_is_tssa():
    w, temperature = series()
    for trained_on in (None, 11):
        y, pi, state = frame_tssa(w[:, 0], temperature, 0.0, trained_on)
        whole, stats = tssa(w[:, 0], temperature, return_stats=True)
        assert_close(y, whole, rtol=0, atol=1e-12)
        assert_close(pi, stats.membership, rtol=0, atol=1e-12)
        assert_close(state.energy, stats.energy, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trained_on", [None, 4])
@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
def test_statistics_go_on_as_defined(decay, trained_on):
    """The formulas, token by token, with every earlier frame counted decay^age."""
    w, temperature = series()
    state, memberships = None, []
    for frame in range(4):
        y, pi, state = frame_tssa(w[:, frame], temperature, decay, trained_on, state)
        age = [decay ** (frame - f) for f in range(frame + 1)]
        for b in range(2):
            energy = sum(g * (w[b, f] ** 2).sum(0) for f, g in enumerate(age))
            grown = 1 if trained_on is None else sum(11 * g for g in age) / trained_on
            now = torch.stack([(temperature * grown * (x**2 / energy).sum(-1)).softmax(0) for x in w[b, frame]])
            memberships.append(now)
            past = memberships[b::2]
            mass = sum(g * past[f].sum(0) for f, g in enumerate(age))
            moment = sum(g * (past[f][..., None] * w[b, f] ** 2).sum(0) for f, g in enumerate(age))
            assert_close(pi[b], now, rtol=0, atol=1e-12)
            assert_close(
                y[b], -now[..., None] * w[b, frame] / (1 + moment / (mass + 1e-8)[:, None]), rtol=0, atol=1e-12
            )


def test_encoder_of_single_frames_is_the_trained_model():
    encoder, model = streaming("flowers", "frame", half_life=0.0), load_model("flowers")
    for picture in moving((96, 96), 3):
        pixels = normalise(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, IMAGENET_MEAN, IMAGENET_STD)
        with torch.no_grad():
            (tokens,) = model.forward_intermediates(pixels, 1, norm=True, output_fmt="NLC", intermediates_only=True)
        assert_close(step(encoder, picture), tokens[0], rtol=1e-4, atol=1e-4)


def test_statistics_by_token_are_one_causal_pass():
    torch.manual_seed(0)
    layer, x = TSSA(12, 3).double(), torch.randn(1, 4 * 7, 12, dtype=torch.float64)
    stream = TokenStatistics(layer, half_life=2.0, trained_on=None)
    with torch.no_grad():
        parts = [stream(part) for part in x.split(7, 1)]
        decay = torch.full((3,), 2 ** (-1 / 14), dtype=torch.float64)
        y = causal_tssa(layer.project(x), layer.temperature, decay=decay)
        assert_close(torch.cat(parts, 1), layer.out_proj(y.flatten(-2)), rtol=0, atol=1e-12)
    assert_close(stream.membership().sum(-1), torch.ones(7, dtype=torch.float64))
    sharper = TokenStatistics(layer, half_life=2.0, trained_on=5)._rates(7)["temperature"]
    assert_close(sharper, layer.temperature * (1 / (1 - decay)) / 5)


def test_reset_forgets():
    torch.manual_seed(0)
    layer, x = TSSA(12, 3), torch.randn(2, 1, 7, 12)
    for stream in (FrameStatistics(layer, 1.0, 7), TokenStatistics(layer, 1.0, 7)):
        with torch.no_grad():
            first, _, later = stream(x[0]), stream(x[1]), stream(x[0])
            assert not torch.allclose(first, later)
            stream.reset()
            assert torch.equal(stream(x[0]), first)


@pytest.mark.parametrize("frames", [1, 3, None])
def test_cache_is_attention_to_the_last_frames(frames):
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(12, 3), torch.randn(1, 9, 6, 12)
    cached = CachedSoftmax(layer, frames)
    with torch.no_grad():
        for now in range(9):
            y = cached(x[:, now])
            seen = x[:, max(0, now + 1 - (frames or 99)) : now + 1].flatten(1, 2)
            q, k, v = (layer.in_proj(seen).unflatten(-1, (3, 3, 4)).movedim(2, 0)[i].transpose(1, 2) for i in range(3))
            whole = F.scaled_dot_product_attention(q[:, :, -6:], k, v).transpose(1, 2).flatten(-2)
            assert_close(y, layer.out_proj(whole), rtol=1e-5, atol=1e-6)
            assert cached.nbytes == 2 * seen.shape[1] * 12 * 4
    assert CachedSoftmax(layer, 2).nbytes == 0
    with torch.no_grad(), pytest.raises(FullCacheError):
        CachedSoftmax(layer, 4, limit=2 * 4 * 6 * 12 * 4 - 1)(x[:, 0])


def test_recomputed_sees_the_last_frames():
    model = load_model("tost_nano_6_p8")
    again, x = Recomputed(model, 2), torch.randn(3, 3, 16, 24)
    with torch.no_grad():
        outputs = [again(x[i : i + 1]) for i in range(3)]
        tokens, size = model.patch_embed(x[1:])
        tokens = (tokens + model.pos_embed(*size)).flatten(0, 1)[None]
        for block in model.blocks:
            tokens = block(tokens)
        assert_close(outputs[2], model.norm(tokens)[0, 6:], rtol=1e-5, atol=1e-5)
        single = model.forward_intermediates(x[:1], 1, norm=True, output_fmt="NLC", intermediates_only=True)[0]
        assert_close(outputs[0], single[0], rtol=1e-5, atol=1e-5)


def test_grids_keep_the_aspect():
    assert grid_for(1920 / 1080, 2304) == (36, 64)
    assert grid_for(1080 / 1920, 2304) == (64, 36)
    assert grid_for(100.0, 4) == (1, 20) and grid_for(1.0, 1) == (1, 1)


def test_a_clip_is_sampled_by_time(clip):
    assert facts(clip) == facts(clip) and (facts(clip).width, facts(clip).height, facts(clip).frames) == (160, 90, 30)
    found = list(pictures(clip, 5, (18, 32), (90, 160)))
    assert [round(p.time, 3) for p in found] == [round(0.2 * i, 3) for i in range(15)]
    assert found[0].small.shape == (18, 32, 3) and found[0].large.shape == (90, 160, 3)
    assert len(list(pictures(clip, 0, (18, 32)))) == 30
    assert len(list(pictures(clip, 100, (18, 32)))) == 30  # no frame twice
    assert len(list(pictures(clip, 0, (18, 32), seconds=1.05))) == 11
    original = next(iter(moving((90, 160), 1))) // 4
    assert np.abs(found[0].large.astype(int) - original).mean() < 6  # right way up, right colours


def test_cuts_are_found_once(clip):
    finder = CutFinder(0.12)
    assert [i for i, p in enumerate(pictures(clip, 0, (36, 64))) if finder(p.small)] == [20]
    never = CutFinder(0.0)
    assert not any(never(p.small) for p in pictures(clip, 0, (36, 64)))


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4")])
def test_a_truncated_clip_is_played_as_far_as_it_goes(suffix, codec, tmp_path):
    options = {"options": {"movflags": "faststart"}} if suffix == "mp4" else {}
    whole = write(tmp_path / f"whole.{suffix}", moving((90, 160), 30), codec=codec, **options).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(0.7 * len(whole))])
    told = []
    found = list(pictures(tmp_path / f"cut.{suffix}", 0, (18, 32), notice=told.append))
    assert 5 <= len(found) < 30
    assert "it ends at" in told[-1] and "\n" not in told[-1]


def test_damaged_frames_are_left_out(tmp_path):
    path = write(tmp_path / "whole.mp4", moving((90, 160), 30), options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(len(data) // 2, len(data), 200):
        data[place] ^= 0x5A
    path.write_bytes(bytes(data))
    told = []
    found = list(pictures(path, 0, (18, 32), notice=told.append))
    assert 10 <= len(found) < 30 and "damaged frames left out" in told[0]


def test_other_sizes_are_scaled_and_told(tmp_path):
    parts = [write(tmp_path / f"{size[0]}.ts", moving(size, 12)) for size in ((90, 160), (120, 80))]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    told = []
    found = list(pictures(tmp_path / "both.ts", 5, (18, 32), notice=told.append))
    assert len(found) == 12 and sum(p.resized for p in found) == 1  # its times begin anew, and are counted on
    assert "80 x 120 pixels, not 160 x 90" in told[0]


def test_a_phones_turn_is_undone(tmp_path):
    """The track's matrix says: turn by a quarter clockwise to show it."""
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[:, :80] = 220  # bright on the left, so on the top when shown
    path = write(tmp_path / "upright.mp4", [picture] * 5)
    one, minus = (0x10000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    nothing, last = bytes(4), (0x40000000).to_bytes(4, "big")
    identity = one + 3 * nothing + one + 3 * nothing + last
    quarter = nothing + one + nothing + minus + 4 * nothing + last
    head, track = (part for part in path.read_bytes().split(b"tkhd", 1))
    (tmp_path / "turned.mp4").write_bytes(head + b"tkhd" + track.replace(identity, quarter, 1))
    told = facts(tmp_path / "turned.mp4")
    assert (told.width, told.height) == (90, 160)
    shown = next(iter(pictures(tmp_path / "turned.mp4", 0, (32, 18)))).small
    assert shown.shape == (32, 18, 3) and shown[:14].min() > 180 and shown[18:].max() < 40


def only_sound(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.sample_rate = 44100
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))


def test_what_is_no_video_is_one_line(tmp_path, clip, capsys):
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").touch()
    only_sound(tmp_path / "sound.mp4")
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:2000])
    whole = write(tmp_path / "whole.mkv", moving((90, 160), 5)).read_bytes()
    (tmp_path / "header.mkv").write_bytes(whole[:700])
    expected = {
        "text.mp4": "not a video", "empty.mp4": "not a video", "sound.mp4": "no picture (it holds audio)",
        "half.mp4": "its end is missing", "header.mkv": "not one whole frame", "gone.mp4": "no such file",
    }  # fmt: skip
    for name, message in expected.items():
        assert main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_one_line(tmp_path, clip, capsys):
    for options, message in {
        ("--layer", "7"): "--layer: expected 1 to 6",
        ("--against", "cash-8"): "expected cache-K",
        ("--against", "recompute-all"): "expected cache-K",
        ("--model", "stdlib"): "no model 'stdlib': choose flowers",
        ("--half-life", "0", "--statistics", "token"): "half-life above 0",
        ("--fps", "-1"): "--fps: expected a number from 0",
        ("--threads", "0"): "--threads: expected a number from 1",
        ("--minutes", "inf"): "--minutes",
        ("--tokens", "many"): "--tokens: expected int",
    }.items():
        assert main([str(clip), "--out", str(tmp_path), *options]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    assert rival_named("cache-all").frames is None and rival_named("tost-recompute-3").frames == 3


@pytest.mark.parametrize("statistics", ["frame", "token"])
def test_the_command(statistics, clip, tmp_path, capsys):
    options = ["--tokens", "60", "--statistics", statistics, "--out", str(tmp_path)]
    assert main([str(clip), *options, "--against", "cache-2,recompute-2,cache-all", "--limit", "1"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["frames"], summary["tokens"], summary["scene_cuts"]) == (15, 60, 1)
    assert summary["state_bytes"] == 6 * 8 * (4 * (2 * 24 + 1) + 1)
    assert [r["name"] for r in summary["rivals"]] == ["cache-2", "recompute-2", "cache-all"]
    assert summary["rivals"][0]["frames"] == 7 and summary["rivals"][0]["cache_bytes"] == 6 * 2 * 2 * 60 * 96 * 4
    with av.open(str(tmp_path / "overlay.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 15 and frames[0].shape == (720, 1280, 3)
    assert np.abs(frames[0].astype(int) - frames[12]).mean() > 2  # it moves
    assert len((tmp_path / "frames.csv").read_text().splitlines()) == 16
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "cache-2" in capsys.readouterr().out


def test_a_replay_is_as_long_as_asked(clip, tmp_path, capsys):
    """2.2 minutes at half a frame a second."""
    options = ["--tokens", "8", "--fps", "0.5", "--minutes", "2.2", "--overlay", "false", "--out", str(tmp_path)]
    assert main([str(clip), *options]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames"] == 66 and summary["minutes"] == 2
    assert "minute 2 over minute 1" in capsys.readouterr().out
    assert not (tmp_path / "overlay.mp4").exists()


def test_a_tiny_gif(tmp_path):
    skimage = pytest.importorskip("skimage")
    gif = Path(skimage.__file__).parent / "data" / "no_time_for_that_tiny.gif"
    assert main([str(gif), "--tokens", "60", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["frames"] == 9


@pytest.mark.parametrize("heads", [1, 4, 16, 20])
@pytest.mark.parametrize("aspect", [0.1, 16 / 9, 12.0])
def test_any_shape_is_painted(heads, aspect):
    painter = Painter("title", "clip", (3, 4), aspect, heads)
    boxes = [painter.main, *painter.maps]
    assert len(boxes) == 1 + min(heads, 16)
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= 1280 and 0 <= top < bottom <= 720
        assert all(right <= b[0] or b[2] <= left or bottom <= b[1] or b[3] <= top for b in boxes[:i])
    share = torch.full((12, heads), 1 / heads)  # nothing leads
    one = painter.paint(np.zeros((*painter.size, 3), np.uint8), share, Moment(61.0, 1, [5.0], [1], 1000))
    assert one.shape == (720, 1280, 3) and one.dtype == np.uint8


def test_interrupted_the_film_is_whole(tmp_path):
    clip = write(tmp_path / "long.mp4", moving((90, 160), 1500))
    options = ["--tokens", "60", "--fps", "0", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "examples.video", str(clip), *options]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not list(tmp_path.glob(".overlay.mp4.*")):
        time.sleep(0.05)
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "stopped before the end" in out, err
    with av.open(str(tmp_path / "overlay.mp4")) as film:
        count = sum(1 for _ in film.decode(video=0))
    assert 0 < count < 1500
    assert json.loads((tmp_path / "summary.json").read_text())["frames"] in (count, count + 1)
