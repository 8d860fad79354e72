import copy
import platform

import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.nn import ConvPatchEmbed, Mlp
from tost.nn.linear import Linear, takes_onednn, uses_onednn

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available(),
    reason="no oneDNN for x86 here",
)
C, O = 96, 128


@pytest.fixture(autouse=True)
def whatever_the_maker(monkeypatch):
    """The path is correct on every x86 processor, and taken by itself on those where it was measured to pay."""
    monkeypatch.setattr("tost.nn.linear.AMD", True)


SHAPES = {"rows": (512, C), "batch": (3, 200, C), "4d": (2, 2, 150, C)}


def pair(bias=True):
    ours, usual = scramble(Linear(C, O, bias=bias)), torch.nn.Linear(C, O, bias=bias)
    usual.load_state_dict(ours.state_dict())
    return ours, usual


def inputs(shape=(3, 200, C)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def compare(ours, usual, x):
    """Values and gradients of two modules on x."""
    a, b = (x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    y, z = ours(a), usual(b)
    assert y.layout == torch.strided
    assert_close(y, z, rtol=1e-4, atol=1e-4)
    mine, others = gradients(ours, y, a), gradients(usual, z, b)
    for name, grad in mine.items():
        assert (grad - others[name]).norm() < 1e-4 * others[name].norm(), name


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_usual_layer(shape, bias):
    ours, usual = pair(bias)
    x = inputs(SHAPES[shape])
    assert uses_onednn(x, ours)
    compare(ours, usual, x)


def test_takes_views_that_are_not_contiguous():
    ours, usual = pair()
    x = inputs((3, C, 200)).transpose(1, 2)
    assert uses_onednn(x, ours)
    compare(ours, usual, x)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_mlp_is_the_usual_two_layers(bias):
    ours = scramble(Mlp(C, O, bias=bias))
    usual = torch.nn.Sequential(torch.nn.Linear(C, O, bias), torch.nn.GELU(), torch.nn.Linear(O, C, bias))
    usual.load_state_dict(dict(zip(usual.state_dict(), ours.state_dict().values())))
    renamed = dict(zip((n for n, _ in ours.named_parameters()), (n for n, _ in usual.named_parameters())))
    x, z = inputs().requires_grad_(), inputs().requires_grad_()
    assert uses_onednn(x, ours.fc1, ours.fc2)
    y, w = ours(x), usual(z)
    assert_close(y, w, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # in tiles of rows
        assert_close(ours(x.repeat(1, 50, 1)), w.repeat(1, 50, 1), rtol=1e-4, atol=1e-4)
    mine, others = gradients(ours, y, x), gradients(usual, w, z)
    for name, grad in mine.items():
        other = others[renamed.get(name, name)]
        assert (grad - other).norm() < 1e-4 * other.norm(), name


def test_hooks_see_ordinary_tensors():
    m, seen = scramble(Mlp(C, O)), []
    x = inputs()
    want = m(x)
    m.fc1.register_forward_hook(lambda module, args, out: seen.append(out))
    assert_close(m(x), want, rtol=1e-4, atol=1e-4)
    assert seen[0].layout == torch.strided
    assert_close(m.fc2(torch.nn.functional.gelu(seen[0])), want, rtol=1e-4, atol=1e-4)


def test_a_layer_of_another_kind_in_its_place_is_called():
    m = scramble(Mlp(C, O))
    m.fc1 = torch.nn.Sequential(m.fc1, torch.nn.Identity())
    m.fc2 = torch.nn.Linear(O, 7)
    assert m(inputs()).shape == (3, 200, 7)


@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no-grad"])
def test_dropout_is_still_applied(gradients):
    m = scramble(Mlp(C, O, drop=0.5))
    with torch.set_grad_enabled(gradients):
        assert (m.train()(inputs()) == 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_second_derivatives():
    found = []
    for layer in pair():
        x = inputs().requires_grad_()
        first = torch.autograd.grad(layer(x).pow(3).mean(), (x, *layer.parameters()), create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        found.append(torch.autograd.grad(penalty, (x, *layer.parameters())))
    for a, b in zip(*found):
        assert b.norm() > 0 and (a - b).norm() < 1e-4 * b.norm()


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_only_the_derivatives_asked_for(frozen):
    ours, x = pair()[0], inputs().requires_grad_(frozen != "input")
    ours.weight.requires_grad_(frozen != "weight")
    ours(x).sum().backward()  # its gradient is expanded: no memory of its own
    assert (x.grad is None, ours.weight.grad is None) == (frozen == "input", frozen == "weight")
    assert_close(ours.bias.grad, torch.full((O,), 600.0))
    if frozen == "weight":
        assert_close(x.grad, ours.weight.sum(0).expand_as(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("patch", [1, 16])
def test_the_stem_with_its_gelu_fused(patch):
    stem = scramble(ConvPatchEmbed(patch, 3, C)).eval()
    x = inputs((2, 3, 64, 48))
    with torch.no_grad():
        assert takes_onednn(x)
        assert_close(stem(x)[0], stem.double()(x.double())[0].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("case", ["small", "double", "bfloat16", "meta", "switched off", "tracing", "autocast"])
def test_stays_out_of_the_way(case):
    ours, x = pair()[0], inputs()
    if case == "switched off":
        with torch.backends.mkldnn.flags(enabled=False):
            assert not uses_onednn(x, ours)
    elif case == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert not uses_onednn(x, ours) and ours(x).dtype == torch.bfloat16
    elif case == "tracing":
        traced = torch.jit.trace(ours, x)
        assert "mkldnn" not in str(traced.graph)
        assert_close(traced(x), ours(x), rtol=1e-4, atol=1e-4)
    else:
        moved = {"small": x[:1, :9], "meta": x.to("meta")}.get(case)
        x = x.to(getattr(torch, case)) if moved is None else moved
        assert not uses_onednn(x, ours)
        assert ours.to(x.device, x.dtype)(x).shape == (*x.shape[:-1], O)


def test_under_transforms_of_torch_func():
    ours, x = pair()[0], inputs()
    weights = dict(ours.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(ours, weights, (x,)).square().sum()

    got = torch.func.grad(loss)(weights, x)
    want = torch.autograd.grad(ours(x).square().sum(), weights.values())
    for a, b in zip(got.values(), want):
        assert_close(a.detach(), b, rtol=1e-3, atol=1e-2)
    each = torch.func.vmap(ours)(x)
    assert_close(each, ours(x), rtol=1e-4, atol=1e-4)


def test_copies():
    ours, x = pair()[0], inputs()
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))
