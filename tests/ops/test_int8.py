"""The int8 operators: exact arithmetic, kernels equal to one definition to the last bit, error bounded by the scale."""

# B batch, N tokens, H heads, D features per head

import math
from fractions import Fraction

import pytest
import torch

from tests.ops.common import SHAPES, TRITON, make_inputs, shape_id
from tost.ops import causal_tssa, fixed_point, tssa
from tost.ops.int8 import Int8State, causal_tssa_int8, tssa_int8
from tost.ops.int8_reference import exponents, quantize

FULL = [("cpu", shape, scale) for shape in SHAPES for scale in (1.0, 300.0, 1e-4)]
# Triton's interpreter is slow
FULL += [(name, shape, 30.0) for name in TRITON for shape in SHAPES if math.prod(shape) < 2500 and shape[0] < 9]


def inputs(shape, seed=0, scale=1.0):
    w, temperature, _ = make_inputs(shape, torch.float32, seed, scale)
    return w, temperature


def options(shape, seed=3):
    """Everything a causal call can have."""
    B, N, H, _ = shape
    random = torch.Generator().manual_seed(seed)
    return {
        "position_bias": 0.1 * torch.randn(H, N + 5, generator=random),
        "decay": 0.8 + 0.2 * torch.rand(H, generator=random),
        "mask": torch.rand(B, N, generator=random) > 0.2,
    }


def same(found, expected):
    """Equal to the last bit, dtypes too."""
    for one, other in zip(found, expected):
        assert one.dtype == other.dtype and torch.equal(one, other)


def where(w, backend):
    return w.cuda() if backend == "triton" and torch.cuda.is_available() else w


@pytest.mark.parametrize(("backend", "shape", "scale"), FULL, ids=[f"{b}-{shape_id(s)}-{x}" for b, s, x in FULL])
def test_full_kernels_equal_the_definition(backend, shape, scale):
    w, temperature = inputs(shape, scale=scale)
    mask = options(shape)["mask"]
    for chosen in (None, mask):
        expected = tssa_int8(w, temperature, mask=chosen, backend="reference")
        there = None if chosen is None else where(chosen, backend)
        found = tssa_int8(where(w, backend), where(temperature, backend), mask=there, backend=backend)
        same([part.cpu() for part in found], expected)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 33, 3, 8), (9, 7, 4, 3), (1, 65, 2, 64)], ids=shape_id)
@pytest.mark.parametrize("chosen", [(), ("decay",), ("position_bias", "decay", "mask")], ids=str)
def test_the_causal_kernel_equals_the_definition(shape, chosen):
    w, temperature = inputs(shape)
    given = {name: value for name, value in options(shape).items() if name in chosen}
    expected, end = causal_tssa_int8(w, temperature, backend="reference", **given)
    found, state = causal_tssa_int8(w, temperature, backend="cpu", **given)
    same(found, expected)
    same(state, end)


@pytest.mark.parametrize("backend", ["reference", "cpu", *TRITON])
def test_packed_sequences_are_each_by_itself(backend):
    w, temperature = inputs((1, 24, 3, 8))
    bounds = [0, 9, 9, 10, 24]
    packed = where(torch.tensor(bounds), backend)
    w, temperature = where(w, backend), where(temperature, backend)
    found = tssa_int8(w, temperature, cu_seqlens=packed, backend=backend)
    alone = [tssa_int8(w[:, a:b], temperature, backend=backend) for a, b in zip(bounds, bounds[1:])]
    same(found, [torch.cat(part, 1) for part in zip(*alone)])
    if backend == "triton":
        return  # its causal form is the definition
    found, state = causal_tssa_int8(w, temperature, cu_seqlens=packed, backend=backend)
    alone = [causal_tssa_int8(w[:, a:b], temperature, backend=backend) for a, b in zip(bounds, bounds[1:])]
    same(found, [torch.cat(part, 1) for part in zip(*(y for y, _ in alone))])
    same(state, [torch.cat(part) for part in zip(*(end for _, end in alone))])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("cut", [0, 1, 17, 32])
def test_a_stream_gives_the_same_integers_however_it_is_split(backend, cut):
    shape = (2, 33, 3, 8)
    w, temperature = inputs(shape)
    w = w * torch.logspace(-2, 2, 33)[:, None, None]  # the scales change all the way
    given = options(shape)
    mask = given.pop("mask")
    whole, end = causal_tssa_int8(w, temperature, mask=mask, backend=backend, **given)
    head, state = causal_tssa_int8(w[:, :cut], temperature, mask=mask[:, :cut], backend=backend, **given)
    before = [part.clone() for part in state]
    tail, last = causal_tssa_int8(w[:, cut:], temperature, mask=mask[:, cut:], state=state, backend=backend, **given)
    same([torch.cat(part, 1) for part in zip(head, tail)], whole)
    same(last, end)
    same(state, before)  # a state is a value


def test_masked_tokens_may_hold_anything_and_change_nothing():
    w, temperature = inputs((2, 30, 3, 8))
    mask = options((2, 30, 3, 8))["mask"]
    torn = w.masked_fill(~mask[..., None, None], float("nan"))
    for op in (tssa_int8, lambda *a, **k: causal_tssa_int8(*a, **k)[0]):
        found = op(torn, temperature, mask=mask)
        same(found, op(w, temperature, mask=mask))
        assert not found.values[~mask].any() and (found.scale[~mask] == 1).all()
        alone = op(w[1:, mask[1]], temperature)
        same([part[1:, mask[1]] for part in found], alone)


def restored(w):
    """What the int8 operators make of w with one exponent for each head of a sequence."""
    e = exponents(w).amax(1, keepdim=True)
    return torch.ldexp(quantize(w, e).double(), e[..., None]), torch.exp2(e.double())


def close(y, expected, what):
    """Within half a step of the token's output (a step where 128 became 127), and what the tables leave out."""
    error, step = (y.dequantize(torch.float64) - expected).abs(), y.scale.double()[..., None, None]
    allowed = torch.where(expected.abs() > 127 * step, step, step / 2) + 1e-3 * expected.abs().amax(
        (2, 3), keepdim=True
    )
    assert (error <= allowed).all(), f"{what}: {(error / allowed).max():.2f} times what is allowed"


@pytest.mark.parametrize("shape", [(2, 63, 3, 8), (1, 200, 2, 64), (2, 129, 3, 17)], ids=shape_id)
@pytest.mark.parametrize("scale", [3e-5, 1.0, 30.0])
def test_all_error_is_of_rounding_w_and_y(shape, scale):
    w, temperature = inputs(shape, scale=scale)
    given = options(shape)
    w[:, 0] = w.abs().amax(1)  # the loudest comes first: the causal scales stay
    given["mask"][:, 0] = True
    exact, _ = restored(w)
    t = temperature.double()
    close(tssa_int8(w, temperature), tssa(exact, t, backend="eager"), "full")
    wide = {name: part.double() if part.is_floating_point() else part for name, part in given.items()}
    close(causal_tssa_int8(w, temperature, **given)[0], causal_tssa(exact, t, backend="eager", **wide), "causal")


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_the_error_against_the_float_operator_is_bounded_by_the_scales(scale):
    """|Pi w / (1 + m)| changes at most by Pi step / 2 through w itself; the sums' share is second order here."""
    w, temperature = inputs((2, 400, 3, 16), scale=scale)
    _, step = restored(w)
    y, stats = tssa(w.double(), temperature.double(), return_stats=True, backend="eager")
    found = tssa_int8(w, temperature)
    error = (found.dequantize(torch.float64) - y).abs()
    gate = 1 / (1 + stats.moment[:, None])
    allowed = stats.membership[..., None] * gate * step[..., None] + found.scale[..., None, None]
    assert (error <= 1.05 * allowed).all()
    assert error.max() <= 0.02 * y.abs().max()


def test_a_louder_token_coarsens_the_statistics_and_no_more():
    w, temperature = inputs((1, 200, 3, 16))
    w[:, 100] *= 50
    y, expected = causal_tssa_int8(w, temperature)[0], causal_tssa(w.double(), temperature.double(), backend="eager")
    error = (y.dequantize(torch.float64) - expected).abs().amax((0, 2, 3))
    assert error[:100].max() < 0.02 * expected.abs().max()
    assert error[100:].max() < 0.3 * expected[:, 101:].abs().max()  # steps are 50 times as wide


def test_silence_and_heads_of_very_different_sizes():
    temperature = torch.ones(3)
    for op in (tssa_int8, lambda *a: causal_tssa_int8(*a)[0]):
        for nothing in (torch.zeros(2, 5, 3, 4), torch.zeros(2, 0, 3, 4), torch.zeros(0, 5, 3, 4)):
            found = op(nothing, temperature)
            assert not found.values.any() and (found.scale == 1).all() and found.values.shape == nothing.shape
        w, _ = inputs((1, 50, 3, 8))
        w = w * torch.tensor([1e-6, 1.0, 1e4])[:, None]
        y, exact = (
            op(w, temperature),
            (tssa if op is tssa_int8 else causal_tssa)(w.double(), temperature.double(), backend="eager"),
        )
        assert y.dequantize().isfinite().all()
        assert (y.dequantize()[:, 1:, 1] - exact[:, 1:, 1]).abs().max() < 0.1 * exact[:, 1:].abs().max()


def test_half_types_are_rounded_from_what_they_hold():
    w, temperature = inputs((2, 20, 3, 8))
    for dtype in (torch.bfloat16, torch.float16):
        same(tssa_int8(w.to(dtype), temperature), tssa_int8(w.to(dtype).float(), temperature))


def test_threads_change_nothing():
    w, temperature = inputs((7, 300, 4, 32))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append((tssa_int8(w, temperature), causal_tssa_int8(w, temperature)[0]))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results):
        same(one, other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.index_fill(1, torch.tensor([3]), float("nan")), "finite w"),
        (lambda w: w * float("inf"), "finite w"),
        (lambda w: w * 2.0**23, r"\|w\| < 2\^22"),
        (lambda w: w[0], "B, N, H, D"),
        (lambda w: w.clone().requires_grad_(), "no gradient"),
        (lambda w: w.to(torch.int32), "float32, float64"),
    ],
    ids=["nan", "infinite", "huge", "three-axes", "gradient", "integers"],
)
def test_what_is_refused(change, told):
    w, temperature = inputs((2, 9, 3, 4))
    for op in (tssa_int8, causal_tssa_int8):
        with pytest.raises(ValueError, match=told) as error:
            op(change(w), temperature)
        assert "\n" not in str(error.value)


def test_other_refusals():
    w, temperature = inputs((2, 9, 3, 4))
    with pytest.raises(ValueError, match=r"temperature\| <= 128"):
        tssa_int8(w, temperature * 1000)
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        tssa_int8(w, temperature, backend="gpu")
    with pytest.raises(ValueError, match="a state of 2 sequences"):
        causal_tssa_int8(w, temperature, state=Int8State.zeros(3, 3, 4))


def test_the_arithmetic_is_what_it_says():
    few = torch.cat([torch.arange(1, 5000), 2 ** torch.arange(62), 2 ** torch.arange(1, 62) - 1])
    assert fixed_point.bit_length(few).tolist() == [n.bit_length() for n in few.tolist()]
    assert fixed_point.bit_length(torch.zeros(1, dtype=torch.int64)).item() == 0
    g, k = fixed_point.reciprocal(few)
    worst = max(abs(float(Fraction(a * n, 2 ** (24 + b)) - 1)) for n, a, b in zip(few.tolist(), g.tolist(), k.tolist()))
    assert worst < 2.1e-5  # 16 bits of x count, and between two entries of the table the curve is a line
    z = torch.arange(0, 12 * 2**16, 17)
    assert (fixed_point.exp_negative(z) / 2**30 - torch.exp(-z.double() / 2**16)).abs().max() < 1.2e-5
    x = torch.tensor([0, 1, 2**30 - 1, 2**45 + 12345, 2**61 + 7])
    for survival in (0, 1, 2**29 + 3, 2**30):
        exact = [math.floor(Fraction(n % 2**30 * survival, 2**30) + Fraction(1, 2)) for n in x.tolist()]
        assert fixed_point.decayed(x, torch.tensor(survival)).tolist() == [
            n // 2**30 * survival + low for n, low in zip(x.tolist(), exact)
        ]
    assert fixed_point.shift_rounded(torch.tensor([5, 6, 7, 2**40]), torch.tensor([1, 2, 0, 99])).tolist() == [
        3,
        2,
        7,
        0,
    ]


def test_long_streams_forget_by_their_half_life_and_do_not_stick():
    """Loud tokens, then soft ones: with a decay the energies settle where the float operator's do."""
    w, temperature = inputs((1, 400, 2, 8))
    w[:, 200:] /= 4
    decay = torch.tensor([0.9, 0.97])
    y, state = causal_tssa_int8(w, temperature, decay=decay)
    exact, end = causal_tssa(w.double(), temperature.double(), decay=decay.double(), return_state=True, backend="eager")
    scale = torch.exp2(2 * state.exponent.double())
    energy = state.energy.double() / 2**fixed_point.ENERGY * scale[..., None]
    assert ((energy - end.energy).abs() < 0.05 * end.energy + scale[..., None]).all()
    assert ((state.mass / 2**fixed_point.SHARE - end.mass).abs() < 0.02 * end.mass).all()
    assert (y.dequantize(torch.float64) - exact)[:, 380:].abs().max() < 0.06 * exact[:, 380:].abs().max()
