"""The operators' contestants compute what they say, and the gate sees when one does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from tost.bench import attention, contestants, definitions, gate, operators, published
from tost.bench.contestants import CONTESTANTS, Case, Entry, Tensors, make_inputs
from tost.bench.limits import Limits, estimate
from tost.bench.presence import absentees, obstacle
from tost.bench.settings import Settings
from tost.ops import BACKENDS, causal_tssa, tssa

SMALL = Case("full", True, 2, 37, 3, 5)
OPS = ["full", "causal"]
HERE = [n for n, c in CONTESTANTS.items() if not c.gpu_only and n not in ("compiled", "triton")]


def checks_of(name, case=SMALL):
    tensors = Tensors(case)
    return list(gate.check_case(case, [Entry(name, case, tensors)], tensors))


def spoil(monkeypatch, name, function):
    """A contestant whose function is changed, everything else as it was."""
    old = CONTESTANTS[name]

    def make(case):
        right = old.make(case)
        return lambda *inputs: function(right(*inputs), *inputs)

    monkeypatch.setitem(CONTESTANTS, name, contestants.Contestant(**{**old.__dict__, "make": make}))


@pytest.mark.parametrize("op", OPS)
def test_published_formulas_are_the_reference(op):
    w = torch.randn(2, 37, 3, 5, dtype=torch.float64)
    temperature = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    bias = torch.randn(3, 37, dtype=torch.float64)
    first = w.transpose(1, 2)
    if op == "full":
        got, expected = published.full(first, temperature[:, None]), tssa(w, temperature, backend="reference")
    else:
        got = published.causal(first, temperature[:, None], bias[..., None])
        expected = causal_tssa(w, temperature, position_bias=bias, backend="reference")
    assert_close(got.transpose(1, 2), expected, rtol=1e-10, atol=1e-12)


def looped(q, k, v, causal, weight):
    """sum_s weight(q_n, k_s, n - s) v_s over the weights' sum, by loops.  [N, D]."""
    y = torch.zeros_like(v)
    for n in range(len(q)):
        seen = n + 1 if causal else len(k)
        weights = [weight(q[n], k[s], n - s) for s in range(seen)]
        y[n] = sum(a * v[s] for s, a in enumerate(weights)) / sum(weights)
    return y


def positive(x):
    return torch.where(x > 0, x + 1, x.exp())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("N", [1, 63, 64, 65, 130])
def test_linear_attention_is_its_loop(N, causal):
    q, k, v = torch.randn(3, N, 4, dtype=torch.float64)
    function = attention.linear_causal if causal else attention.linear
    expected = looped(q, k, v, causal, lambda a, b, _: (positive(a) * positive(b)).sum())
    assert_close(function(q[None, None], k[None, None], v[None, None])[0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attentions_are_their_loop(causal):
    q, k, v = torch.randn(3, 33, 8, dtype=torch.float64)
    expected = looped(q, k, v, causal, lambda a, b, _: ((a * b).sum() / math.sqrt(8)).exp())
    for function in (attention.softmax, attention.softmax_fused):
        assert_close(function(q[None, None], k[None, None], v[None, None], causal)[0, 0], expected)


def test_cross_covariance_is_its_loop():
    q, k, v = torch.randn(3, 21, 4, dtype=torch.float64)
    y = torch.zeros_like(v)
    for i in range(4):
        scores = [float((q[:, i] * k[:, j]).sum() / q[:, i].norm() / k[:, j].norm()) for j in range(4)]
        total = sum(math.exp(s) for s in scores)
        y[:, i] = sum(math.exp(s) / total * v[:, j] for j, s in enumerate(scores))
    assert_close(attention.cross_covariance(q[None, None], k[None, None], v[None, None])[0, 0], y)


def test_the_state_space_definition_is_its_recurrence():
    q, k, v = torch.randn(3, 19, 4, dtype=torch.float64)
    decay, state, expected = -0.3, torch.zeros(4, 4, dtype=torch.float64), []
    for n in range(19):
        state = math.exp(decay) * state + torch.outer(k[n], v[n])
        expected.append(q[n] @ state / 4)
    got = definitions.DEFINITIONS["state_space"](q, k, v, torch.arange(19), True, decay)
    assert_close(got, torch.stack(expected))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["published", *[b for b in BACKENDS if b in ("eager", "cpu")]])
def test_entries_compute_the_operator_with_gradients(name, op):
    case = SMALL._replace(op=op)
    expected = definitions.operator(case, *make_inputs(case), backend="reference")
    for got, wanted in zip(Entry(name, case).outputs(), expected, strict=True):
        assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", HERE)
def test_every_contestant_passes_the_gate(name, op, dtype):
    if op not in CONTESTANTS[name].ops:
        return
    reason = obstacle(name, CONTESTANTS[name], Settings(dtype=dtype))
    if reason is not None:
        assert (name, dtype, reason) == ("published", "float16", "gives no finite numbers in float16")
        return
    case = Case(op, True, 1, 200, 2, 16, dtype)
    result = Entry(name, case).run()
    assert all(part.isfinite().all() for part in (result if isinstance(result, tuple) else (result,)))
    checks = checks_of(name, case)
    assert bool(checks) == (CONTESTANTS[name].computes != "copy")
    assert all(check.green for check in checks), [str(check) for check in checks if not check.green]


def test_the_gate_is_green_for_its_own_definitions():
    checks = gate.check_definition()
    assert len(checks) == 8 and all(check.green for check in checks), [str(c) for c in checks if not c.green]


@pytest.mark.parametrize("factor", [1.01, torch.nan], ids=["wrong", "nan"])
@pytest.mark.parametrize("name", ["cpu", "published", "softmax", "xca", "linear"])
def test_the_gate_is_red_for_a_scaled_contestant(name, factor, monkeypatch):
    spoil(monkeypatch, name, lambda y, *_: factor * y)
    red = [str(check) for check in checks_of(name) if not check.green]
    assert any(": y:" in said for said in red) and any(": d" in said for said in red)
    assert "B2 N37 H3 D5" in red[0]


@pytest.mark.parametrize("name", ["cpu", "sdpa"])
def test_the_gate_sees_a_gradient_that_alone_is_wrong(name, monkeypatch):
    spoil(monkeypatch, name, lambda y, x, *_: y + 0.01 * (x - x.detach()))
    red = [check.what for check in checks_of(name) if not check.green]
    assert red and all(what.endswith((": dw", ": dq")) for what in red)


def test_in_half_precision_a_rivals_formula_is_checked_in_float32(monkeypatch):
    spoil(monkeypatch, "published", lambda y, *_: 1.01 * y)
    red = [check.what for check in checks_of("published", SMALL._replace(dtype="bfloat16")) if not check.green]
    assert red and all(what.endswith("in float32") for what in red)


@pytest.mark.parametrize("op", OPS)
def test_a_long_forward_pass_is_checked_in_pieces(op, monkeypatch):
    monkeypatch.setattr(gate, "WHOLE", 16)
    monkeypatch.setattr(definitions, "CHUNK", 10)
    case = SMALL._replace(op=op, train=False)
    assert all(check.green for check in checks_of("cpu", case))
    spoil(monkeypatch, "cpu", lambda y, *_: torch.cat([y[:, :-1], 1.01 * y[:, -1:]], 1))
    assert not any(check.green for check in checks_of("cpu", case))


def test_inputs_are_the_same_for_every_contestant():
    tensors = Tensors(SMALL)
    a, b = Entry("published", SMALL, tensors), Entry("cpu", SMALL, tensors)
    assert torch.equal(a.inputs[0].transpose(1, 2), b.inputs[0])
    assert torch.equal(Entry("cpu", SMALL).inputs[0], b.inputs[0])
    q, k, v = Entry("sdpa", SMALL, tensors).inputs
    assert q is a.inputs[0] and not torch.equal(q, k) and not torch.equal(k, v)


def test_sdpas_kernel_is_named():
    assert attention.kernel_of(Entry("sdpa", Case("full", False, 1, 64, 2, 16)).run) == "flash (CPU)"
    assert attention.kernel_of(lambda: torch.randn(3, 3) @ torch.randn(3, 3)) == "math"


def test_who_cannot_run_says_why(no_compiler, monkeypatch):
    def broken(case):
        raise RuntimeError("no kernel for this\nprecision")

    monkeypatch.setitem(CONTESTANTS, "sdpa", contestants.Contestant(**{**CONTESTANTS["sdpa"].__dict__, "make": broken}))
    absent = absentees(Settings())
    assert absent["sdpa_flash"] == "runs on a GPU only"
    assert absent["sdpa"] == "does not work here (no kernel for this precision)"
    assert "torch.compile does not work here" in absent["compiled"]
    assert "cpu" not in absent and "eager" not in absent


def test_saved_bytes_count_each_storage_once_and_no_input():
    case = Case("full", True, 1, 256, 4, 32)
    assert operators.saved_bytes("sdpa", case) >= case.w_bytes  # its output at least
    assert 2 * case.w_bytes < operators.saved_bytes("published", case) < 12 * case.w_bytes
    for name in ("eager", "cpu"):
        for op in OPS:
            assert operators.saved_bytes(name, case._replace(op=op)) <= 0.1 * case.w_bytes, (name, op)


def test_what_does_not_fit_is_left_out_and_says_so():
    limits = Limits(1.0, 60.0, {"linear": "gone"})
    huge = Case("full", True, 1, 65536, 8, 48)
    assert limits.obstacle("softmax", huge) == "needs 513 GiB"
    limits.note("sdpa", huge._replace(N=1024), 0.1)
    assert limits.obstacle("sdpa", huge) == "over 1 s a call"
    assert limits.peak_obstacle("sdpa", huge._replace(N=4096)) is None  # 1.6 s: a peak takes one call
    limits.note("cpu", huge._replace(N=1024), 0.01)
    assert limits.obstacle("cpu", huge) is None
    assert limits.obstacle("linear", huge) == "" == limits.obstacle("xca", huge._replace(op="causal"))
    limits.budget_s = -1.0
    assert limits.obstacle("sdpa", huge._replace(N=1024)) == "out of time"
    assert limits.obstacle("published", huge._replace(N=1024)) is None
    assert limits.peak_obstacle("sdpa", huge._replace(N=4096)) == "over 1 s a call"
    assert estimate("cpu", huge) < estimate("published", huge) < estimate("softmax", huge)
