"""Theorem 1: the bound, where it is tight, and the bases that attain it; slopes and limits of the functions f."""

# C features, K groups, P subspace dimensions per group

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tost.ops import tssa
from tost.rates import (
    LogRate,
    PowerRate,
    SaturatingRate,
    attaining_basis,
    attaining_subspaces,
    compression_rate,
    diagonal_bound,
    memberships,
    spectral_rate,
    variational_gradient,
    variational_rate,
)
from tost.rates.concave import Custom

FUNCTIONS = {
    "log": LogRate(3.0),
    "power": PowerRate(0.5, 1e-2),
    "linear": PowerRate(1.0),
    "saturating": SaturatingRate(),
    "callable": Custom(torch.log1p),
}
every_function = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=list(FUNCTIONS))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def covariances(C=6, rank=6, seed=0):
    factor = torch.randn(4, C, rank, generator=generator(seed), dtype=torch.float64)
    return factor @ factor.mT


def orthogonal(C=6, seed=1, count=4):
    return torch.linalg.qr(torch.randn(count, C, C, generator=generator(seed), dtype=torch.float64))[0]


def grouped(B=2, N=23, C=8, K=3, seed=0):
    Z = torch.randn(B, N, C, generator=generator(seed), dtype=torch.float64)
    return Z, torch.randn(B, N, K, generator=generator(seed + 1), dtype=torch.float64).mul(2).softmax(-1)


@every_function
@pytest.mark.parametrize("rank", [1, 3, 6], ids=lambda r: f"rank{r}")
@pytest.mark.parametrize("seed", range(3))
def test_the_diagonal_bounds_the_spectrum(f, rank, seed):
    M = covariances(rank=rank, seed=seed)
    gap = diagonal_bound(M, orthogonal(seed=seed), f) - spectral_rate(M, f)
    assert (gap >= -1e-9).all()
    if f != PowerRate(1.0):  # all others are strictly concave, and a random Q diagonalises nothing
        assert (gap > 1e-3).all()


@every_function
@pytest.mark.parametrize("rank", [0, 1, 3, 6], ids=lambda r: f"rank{r}")
def test_eigenvectors_attain_it_in_any_order_and_sign(f, rank):
    M = covariances(rank=rank)
    Q = attaining_basis(M)
    assert_close(diagonal_bound(M, Q, f), spectral_rate(M, f), rtol=1e-9, atol=1e-9)
    turned = Q[..., [3, 1, 5, 0, 2, 4]] * torch.tensor([1.0, -1, 1, -1, -1, 1], dtype=torch.float64)
    assert_close(diagonal_bound(M, turned, f), spectral_rate(M, f), rtol=1e-9, atol=1e-9)
    if 0 < rank < 6:
        assert_close(diagonal_bound(M, Q[..., :rank], f), spectral_rate(M, f), rtol=1e-9, atol=1e-9)
        assert torch.equal(attaining_basis(M, rank), Q[..., :rank])


def test_turning_the_basis_away_from_the_eigenvectors_loosens_the_bound():
    M, angles = covariances()[:1], torch.linspace(0, 0.5, 6, dtype=torch.float64)
    Q = attaining_basis(M)[0]
    bounds = []
    for angle in angles:
        turn = torch.eye(6, dtype=torch.float64)
        turn[0, 0] = turn[5, 5] = angle.cos()
        turn[0, 5], turn[5, 0] = -angle.sin(), angle.sin()
        bounds.append(diagonal_bound(M[0], Q @ turn, LogRate(3.0)))
    assert (torch.stack(bounds).diff() > 0).all()


@every_function
def test_functions_are_zero_at_zero_concave_and_their_slopes_are_right(f):
    x = torch.linspace(0, 9, 200, dtype=torch.float64)
    assert float(f(x[:1])) == 0
    assert (f(x).diff() >= 0).all()
    assert (f(x).diff().diff() <= 1e-12).all()
    assert_close(f.slope(x), super(type(f), f).slope(x), rtol=1e-12, atol=1e-12)  # autograd's


def test_the_coding_rates_function_has_its_scale():
    assert LogRate.coding(8, 0.5) == LogRate(32.0)
    with pytest.raises(ValueError, match="eps > 0"):
        LogRate.coding(8, 0.0)


@every_function
@pytest.mark.parametrize("N", [4, 23], ids=lambda n: f"N{n}")
def test_attaining_subspaces_make_the_variational_rate_exact(f, N):
    Z, membership = grouped(N=N)
    U = attaining_subspaces(Z, membership)
    assert_close(U.mT @ U, torch.eye(8, dtype=Z.dtype).expand(2, 3, 8, 8), rtol=0, atol=1e-12)
    exact = compression_rate(Z, membership, f=f)
    assert_close(variational_rate(Z, membership, U, f=f), exact, rtol=1e-9, atol=1e-9)
    alone = attaining_subspaces(Z[1], membership[1])
    assert_close(variational_rate(Z[1], membership[1], alone, f=f), exact[1], rtol=1e-9, atol=1e-9)
    if N == 4:  # no group has more than four dimensions
        narrow = attaining_subspaces(Z, membership, 4)
        assert_close(variational_rate(Z, membership, narrow, f=f), exact, rtol=1e-9, atol=1e-9)


def test_masked_tokens_turn_no_subspace():
    Z, membership = grouped(B=1)
    mask = torch.arange(23)[None] < 15
    U = attaining_subspaces(Z.masked_fill(~mask[..., None], torch.nan), membership, mask=mask)
    assert_close(U[0].abs(), attaining_subspaces(Z[0, :15], membership[0, :15]).abs(), rtol=1e-7, atol=1e-9)


@every_function
@pytest.mark.parametrize("shared", [True, False], ids=["U-shared", "U-per-sequence"])
def test_closed_form_gradient_is_autograds(f, shared):
    Z, membership = grouped()
    U = torch.randn(2, 3, 8, 4, generator=generator(5), dtype=torch.float64)  # any U, not orthonormal
    U = U[0] if shared else U
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, 17:], mask[0, 2] = False, False
    Z.requires_grad_()
    (expected,) = torch.autograd.grad(variational_rate(Z, membership, U, f=f, mask=mask).sum(), Z)
    got = variational_gradient(Z.detach().masked_fill(~mask[..., None], torch.nan), membership, U, f=f, mask=mask)
    assert_close(got, expected, rtol=1e-11, atol=1e-13)
    assert (got[~mask] == 0).all()


def test_memberships_are_the_operators():
    Z, _ = grouped()
    U = torch.randn(3, 8, 4, generator=generator(5), dtype=torch.float64)
    temperature = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    mask = torch.arange(23)[None] < torch.tensor([[23], [9]])
    for given in (None, mask):
        w = torch.einsum("bnc,kcp->bnkp", Z, U)
        expected = tssa(w, temperature, mask=given, return_stats=True)[1].membership
        assert_close(memberships(Z, U, temperature, mask=given), expected, rtol=1e-12, atol=1e-12)
    assert_close(memberships(Z[0], U), memberships(Z, U, 1.0)[0])
    assert memberships(torch.zeros(2, 0, 8), U.float()).shape == (2, 0, 3)
    assert_close(memberships(torch.zeros(1, 5, 8), U.float()), torch.full((1, 5, 3), 1 / 3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spectral_rate(torch.ones(3)), r"spectral_rate expects .*\[\.\.\., C, C\]"),
        (lambda: diagonal_bound(torch.eye(3), torch.ones(4, 2)), r"\[\.\.\., 3, P\], got \[4, 2\]"),
        (lambda: attaining_basis(torch.ones(2, 3)), "attaining_basis expects symmetric"),
        (lambda: memberships(torch.ones(2, 5, 8), torch.ones(3, 7, 4)), r"memberships expects U of shape"),
        (lambda: memberships(torch.ones(2, 5, 8), torch.ones(8, 4)), r"memberships expects U of shape"),
        (lambda: variational_gradient(*grouped(), torch.ones(2, 2, 8, 3)), r"\[3, 8, P\], got \[2, 2, 8, 3\]"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()
