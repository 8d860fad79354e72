"""The ways to one number: both Grams, members alone, strips of features, Cholesky or eigenvalues, under autocast."""

# B batch, N tokens, C features, K groups

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tost.rates import LogRate, PowerRate, coding_rate, compression_rate, rate_reduction, variational_rate
from tost.rates.gram import STRIP, Gram, members


def generator(seed):
    return torch.Generator().manual_seed(seed)


def labelled(N=60, C=12, K=4, seed=0):
    Z = torch.randn(N, C, generator=generator(seed), dtype=torch.float64)
    labels = torch.randint(0, K, (N,), generator=generator(seed + 1))
    return Z, torch.nn.functional.one_hot(labels, K).double()


@pytest.mark.parametrize("C", [5, STRIP, STRIP + 1, 2 * STRIP + 7], ids=lambda c: f"C{c}")
@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "plain"])
def test_strips_make_the_whole_product(C, weighted):
    Z = torch.randn(2, C + 3, C, generator=generator(0), dtype=torch.float64)
    weights = torch.rand(2, C + 3, generator=generator(1), dtype=torch.float64) if weighted else None
    scaled = Z if weights is None else weights[..., None] * Z
    assert_close(Gram.apply(Z, weights), scaled.mT @ Z, rtol=1e-12, atol=1e-12)


def test_grams_have_right_first_and_second_derivatives():
    Z = torch.randn(2, 5, 3, generator=generator(0), dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 5, generator=generator(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Gram.apply, (Z, weights))
    assert torch.autograd.gradgradcheck(Gram.apply, (Z, weights))
    assert torch.autograd.gradcheck(lambda z: Gram.apply(z, None), (Z,))
    assert torch.autograd.gradgradcheck(lambda z: Gram.apply(z, None), (Z,))


def test_torch_func_goes_through():
    Z = torch.randn(3, 9, 4, generator=generator(0), dtype=torch.float64)
    pi = torch.randn(3, 9, 2, generator=generator(1), dtype=torch.float64).softmax(-1).requires_grad_()
    expected = torch.autograd.grad(compression_rate(Z.requires_grad_(), pi).sum(), Z)[0]
    each = [torch.func.grad(lambda z, p=p: compression_rate(z, p))(z) for z, p in zip(Z.detach(), pi.detach())]
    assert_close(torch.stack(each), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("f", [LogRate(3.0), PowerRate(0.5)], ids=["log", "power"])
@pytest.mark.parametrize("N", [9, 60], ids=lambda n: f"N{n}")
def test_members_alone_give_what_all_tokens_give(f, N):
    """Labels for groups: each group of its own tokens, with the same value and gradient as with everybody's zeros."""
    Z, groups = labelled(N=N)
    parts = members(Z[None], groups[None])
    assert [len(weights[0]) for _, weights in parts] == groups.sum(0).tolist()
    Z.requires_grad_()
    fast = compression_rate(Z, groups, f=f)
    slow = compression_rate(Z, groups.clone().requires_grad_(), f=f)  # memberships that learn keep their zeros
    assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    (a,), (b,) = torch.autograd.grad(fast, Z), torch.autograd.grad(slow, Z)
    assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_soft_memberships_and_overlaps_take_all_tokens():
    Z, groups = labelled()
    assert members(Z[None], groups[None] / 2 + 0.1)[0][0].shape == (1, 60, 12)
    both = torch.zeros(60, 4, dtype=Z.dtype)
    both[:5, :2] = 0.5  # five tokens in two groups, all others in none
    assert [len(weights[0]) for _, weights in members(Z[None], both[None])] == [5, 5, 0, 0]
    assert_close(compression_rate(Z, both), compression_rate(Z, both.clone().requires_grad_()))


def test_batches_are_loops():
    Z = torch.randn(3, 20, 7, generator=generator(0), dtype=torch.float64)
    soft = torch.randn(3, 20, 4, generator=generator(1), dtype=torch.float64).mul(3).softmax(-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), 4).double()
    mask = torch.arange(20)[None] < torch.tensor([[20], [11], [3]])
    for pi in (soft, hard):
        got = rate_reduction(Z, pi, mask=mask)
        expected = [rate_reduction(Z[b, mask[b]], pi[b, mask[b]]) for b in range(3)]
        assert_close(got, torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("N", [10, 40], ids=lambda n: f"N{n}")
@pytest.mark.parametrize("size", [1e-20, 1e-6, 1.0, 1e4], ids=lambda s: f"{s:g}")
def test_few_dimensions_and_any_size_leave_numbers(N, size):
    """Rank 2 of 24 features, in float32 and a tiny distortion: rounding leaves no Cholesky factor."""
    flat = torch.randn(N, 2, generator=generator(0)) @ torch.randn(2, 24, generator=generator(1))
    Z = (size * flat).requires_grad_()
    groups = torch.nn.functional.one_hot(torch.arange(N) % 3, 4).float()
    for eps in (0.5, 1e-3):
        rates = coding_rate(Z, eps), compression_rate(Z, groups, eps), rate_reduction(Z, groups, eps)
        assert all(rate.isfinite() for rate in rates)
        assert torch.autograd.grad(sum(rates), Z)[0].isfinite().all()
    assert_close(coding_rate(Z, 0.5), coding_rate(Z.double(), 0.5).float(), rtol=0.1, atol=1e-3)


def test_eigenvalues_stand_in_where_cholesky_fails():
    M = -torch.eye(3, dtype=torch.float64) * 1e-3  # as rounding leaves it, exaggerated: not positive semidefinite
    M[0, 0] = 2.0
    assert_close(LogRate(1e4).spectral(M), torch.tensor(20001.0, dtype=torch.float64).log())
    assert LogRate(1.0).spectral(torch.full((2, 2), torch.nan)).isnan()


def test_nothing_is_summed_in_half_precision():
    Z = torch.randn(2, 50, 8, generator=generator(0))
    pi = torch.randn(2, 50, 3, generator=generator(1)).softmax(-1)
    U = torch.randn(3, 8, 4, generator=generator(2))
    Z.requires_grad_()
    plain = torch.stack([coding_rate(Z), compression_rate(Z, pi), variational_rate(Z, pi, U)])
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.stack([coding_rate(Z), compression_rate(Z, pi), variational_rate(Z, pi, U)])
        named = compression_rate(membership=pi, Z=Z)
    assert_close(inside, plain, rtol=1e-6, atol=0)
    assert_close(named, plain[1], rtol=1e-6, atol=0)
    (a,), (b,) = torch.autograd.grad(inside.sum(), Z), torch.autograd.grad(plain.sum(), Z)
    assert_close(a, b, rtol=1e-5, atol=1e-8)
