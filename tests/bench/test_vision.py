"""The whole-model benchmark compares equal models."""

from __future__ import annotations

import json

import pytest
import torch

from tost.bench import vision
from tost.bench.vision import bench_vision, logit_error, pair, time_shares


def test_models_hold_the_same_weights():
    ours, theirs = pair("tost_tiny_12_p16", 64)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert logit_error(ours(x), theirs(x)) < 1e-5


def test_shares_add_up_and_no_hook_stays():
    ours, _ = pair("tost_tiny_12_p16", 64)
    with torch.inference_mode():
        shares = time_shares(ours, torch.randn(1, 3, 64, 64), rounds=1)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"stem", "MLP", "class attention", "projections", "operator", "norms, residuals, rest"}
    assert min(shares.values()) > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ours.modules())


def test_report_and_json(tmp_path, capsys):
    assert bench_vision("tost_tiny_12_p16", 64, rounds=2, json=tmp_path / "v.json") == 0
    assert "speed-up" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.json").read_text())["speed_up"] > 0


def test_different_logits_print_no_speed_up(monkeypatch, capsys):
    monkeypatch.setattr(vision, "logit_error", lambda *_: float("nan"))
    assert bench_vision("tost_tiny_12_p16", 64, rounds=1) == 1
    told = capsys.readouterr()
    assert told.out == "" and "logits differ" in told.err
