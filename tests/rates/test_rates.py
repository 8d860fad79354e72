"""Theorem 1, invariances, gradients and limits of the coding rates."""

# B batch, N tokens, C features, K groups, P dimensions per group

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tost.rates import (
    LogRate,
    PowerRate,
    SaturatingRate,
    coding_rate,
    compression_rate,
    projected_rate,
    rate_reduction,
    variational_rate,
)

FUNCTIONS = {
    "log": LogRate(3.0),
    "power": PowerRate(0.5, 1e-2),
    "linear": PowerRate(1.0),
    "saturating": SaturatingRate(),
}


def inputs(B=2, N=23, C=8, K=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(B, N, C, generator=generator, dtype=dtype)
    membership = torch.randn(B, N, K, generator=generator, dtype=dtype).mul(2).softmax(-1)
    return Z, membership


def orthonormal(K, C, P, seed=1):
    return torch.linalg.qr(torch.randn(K, C, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def diagonalising(Z, membership):
    """Eigenvectors [K, C, C] of the groups' covariances of one sequence."""
    return torch.linalg.eigh(torch.einsum("nk,nc,nd->kcd", membership, Z, Z))[1]


def by_definition(Z, membership, f):
    """R_c of one sequence by loops over groups and singular values."""
    n, total = len(Z), 0.0
    for pi in membership.T:
        mass = pi.sum()
        values = torch.linalg.svdvals(pi.sqrt()[:, None] * Z) ** 2 / mass
        total = total + mass / n * f(values).sum()
    return total / 2


def test_coding_rate_is_the_log_determinant():
    Z, _ = inputs()
    n, C = Z.shape[1:]
    expected = torch.stack([0.5 * torch.logdet(torch.eye(C, dtype=z.dtype) + C / (n * 0.3**2) * z.T @ z) for z in Z])
    assert_close(coding_rate(Z, 0.3), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("N", [3, 8, 23], ids=lambda n: f"N{n}")
def test_compression_rate_is_its_definition(name, N):
    Z, membership = inputs(N=N)  # C = 8: fewer, as many and more tokens than features
    expected = torch.stack([by_definition(z, pi, FUNCTIONS[name]) for z, pi in zip(Z, membership)])
    assert_close(compression_rate(Z, membership, f=FUNCTIONS[name]), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_variational_rate_bounds_the_exact_one(name, seed):
    Z, membership = inputs(seed=seed)
    f, U = FUNCTIONS[name], orthonormal(3, 8, 8, seed)
    gap = variational_rate(Z, membership, U, f=f) - compression_rate(Z, membership, f=f)
    assert (gap >= -1e-12).all()
    if name != "linear":  # strictly concave, and a random U diagonalises nothing
        assert (gap > 1e-3).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bound_is_tight_where_U_diagonalises(name):
    Z, membership = inputs(B=1)
    U = diagonalising(Z[0], membership[0])
    f = FUNCTIONS[name]
    assert_close(variational_rate(Z, membership, U, f=f), compression_rate(Z, membership, f=f), rtol=1e-10, atol=0)


def test_narrow_subspaces_bound_when_they_hold_the_tokens():
    """P < C: tokens of group k in the span of U_k."""
    U = orthonormal(2, 8, 3)
    coefficients = torch.randn(2, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    Z = (coefficients @ U.transpose(1, 2)).flatten(0, 1)
    membership = torch.nn.functional.one_hot(torch.arange(20) // 10).double()
    exact, bound = compression_rate(Z, membership), variational_rate(Z, membership, U)
    assert exact <= bound
    assert bound < 2 * exact


@pytest.mark.parametrize("N", [5, 30], ids=lambda n: f"N{n}")
def test_permutations_change_nothing(N):
    Z, membership = inputs(N=N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    groups = torch.tensor([2, 0, 1])
    U = orthonormal(3, 8, 4)
    assert_close(coding_rate(Z[:, order]), coding_rate(Z))
    assert_close(compression_rate(Z[:, order], membership[:, order][..., groups]), compression_rate(Z, membership))
    assert_close(
        variational_rate(Z[:, order], membership[:, order][..., groups], U[groups]), variational_rate(Z, membership, U)
    )


def test_rotations_change_nothing():
    Z, membership = inputs()
    Q = orthonormal(1, 8, 8)[0]
    U = orthonormal(3, 8, 4)
    assert_close(compression_rate(Z @ Q, membership), compression_rate(Z, membership))
    assert_close(variational_rate(Z @ Q, membership, Q.T @ U), variational_rate(Z, membership, U))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_the_closed_form(name):
    """grad_Z Rvar = (1/n) sum_k Pi_k U_k f'(moment) U_k^T z, row by row."""
    Z, membership = inputs(B=1)
    U, f = orthonormal(3, 8, 4), FUNCTIONS[name]
    Z.requires_grad_()
    (gradient,) = torch.autograd.grad(variational_rate(Z, membership, U, f=f).sum(), Z)
    w = torch.einsum("bnc,kcp->bnkp", Z.detach(), U)
    moment = (torch.einsum("bnk,bnkp->bkp", membership, w**2) / membership.sum(1)[..., None]).requires_grad_()
    (slope,) = torch.autograd.grad(f(moment).sum(), moment)
    expected = torch.einsum("bnk,bnkp,bkp,kcp->bnc", membership, w, slope, U) / Z.shape[1]
    assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("N", [3, 9], ids=lambda n: f"N{n}")
def test_gradcheck(name, N):
    Z, membership = inputs(B=2, N=N, C=5, K=2)
    U, f = orthonormal(2, 5, 3), FUNCTIONS[name]
    Z.requires_grad_(), membership.requires_grad_(), U.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, pi: compression_rate(z, pi, f=f), (Z, membership))
    assert torch.autograd.gradcheck(lambda z, pi, u: variational_rate(z, pi, u, f=f), (Z, membership, U))
    assert torch.autograd.gradcheck(lambda z: coding_rate(z, 0.7), (Z,))


@pytest.mark.parametrize("N", [3, 12], ids=lambda n: f"N{n}")
def test_hard_memberships_have_finite_exact_gradients(N):
    """At Pi = 0 the smaller Gram needs a square root of zero; both Grams must agree on the slope there."""
    Z, _ = inputs(B=1, N=N, C=6)
    membership = torch.nn.functional.one_hot(torch.arange(N) % 2, 2).double()[None].requires_grad_()
    Z.requires_grad_()
    gradients = torch.autograd.grad(compression_rate(Z, membership).sum(), (Z, membership))
    wide = torch.cat([Z, torch.zeros(1, 20, 6, dtype=Z.dtype)], 1)  # zero tokens: the other Gram, another n
    more = torch.cat([membership, torch.zeros(1, 20, 2, dtype=Z.dtype)], 1)
    mask = torch.arange(N + 20)[None] < N
    others = torch.autograd.grad(compression_rate(wide, more, mask=mask).sum(), (Z, membership))
    for gradient, other in zip(gradients, others):
        assert gradient.isfinite().all()
        assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_masked_tokens_do_not_exist():
    Z, membership = inputs(N=12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 3], mask[1, 9:] = False, False
    U = orthonormal(3, 8, 4)
    poisoned = torch.where(mask[..., None], Z, torch.nan).requires_grad_()
    for rate in (
        lambda z, pi, **more: coding_rate(z, **more),
        compression_rate,
        lambda z, pi, **more: variational_rate(z, pi, U, **more),
    ):
        got = rate(poisoned, membership, mask=mask)
        expected = torch.stack([rate(Z[b, mask[b]], membership[b, mask[b]]) for b in range(2)])
        assert_close(got, expected, rtol=1e-10, atol=1e-12)
        (gradient,) = torch.autograd.grad(got.sum(), poisoned)
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()


def test_an_empty_group_costs_nothing():
    Z, membership = inputs()
    empty = torch.cat([membership, torch.zeros(2, 23, 1, dtype=Z.dtype)], -1)
    U = orthonormal(4, 8, 4)
    Z.requires_grad_()
    assert_close(compression_rate(Z, empty), compression_rate(Z, membership), rtol=1e-12, atol=0)
    got = variational_rate(Z, empty, U)
    assert_close(got, variational_rate(Z, membership, U[:3]), rtol=1e-12, atol=0)
    assert torch.autograd.grad(got.sum() + compression_rate(Z, empty).sum(), Z)[0].isfinite().all()


def test_no_tokens_cost_nothing():
    Z, membership = inputs(N=0)
    assert_close(coding_rate(Z), torch.zeros(2, dtype=Z.dtype))
    assert_close(compression_rate(Z, membership), torch.zeros(2, dtype=Z.dtype))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    assert_close(coding_rate(torch.full((2, 5, 3), torch.nan), mask=mask), torch.zeros(2))


def test_reduction_is_large_for_separable_classes_only():
    """MCR^2: classes in orthogonal subspaces gain, one cloud cut at random does not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.nn.functional.one_hot(torch.arange(100) // 50).double()
    U = orthonormal(1, 8, 8)[0]
    apart = torch.cat([torch.randn(50, 4, generator=generator).double() @ part.T for part in (U[:, :4], U[:, 4:])])
    cloud = torch.randn(100, 8, generator=generator).double()
    assert rate_reduction(apart, labels) > 2
    assert 0 <= rate_reduction(cloud, labels) < 0.3
    assert_close(rate_reduction(cloud, torch.ones(100, 1)), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)


def test_float32_and_half_are_close_to_float64_and_can_be_summed_in_it():
    Z, membership = inputs(N=500, C=32)
    exact = compression_rate(Z, membership)
    assert_close(compression_rate(Z.float(), membership.float()).double(), exact, rtol=1e-5, atol=0)
    assert compression_rate(Z.half(), membership.half()).dtype == torch.float32
    wide = compression_rate(Z.float(), membership.float(), dtype=torch.float64)
    assert wide.dtype == torch.float64
    assert_close(wide, exact, rtol=1e-6, atol=0)


def test_one_sequence_gives_a_scalar():
    Z, membership = inputs()
    assert_close(compression_rate(Z[0], membership[0]), compression_rate(Z, membership)[0])
    assert coding_rate(Z[0]).shape == ()


def test_projected_rate_is_the_variational_rate_of_its_tokens():
    Z, membership = inputs()
    U = orthonormal(3, 8, 4)
    w = torch.einsum("bnc,kcp->bnkp", Z, U)
    assert_close(projected_rate(w, membership), variational_rate(Z, membership, U, f=LogRate(1.0)))
    assert_close(projected_rate(w, membership, f=torch.log1p), projected_rate(w, membership))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda Z, pi: coding_rate(Z[0, 0]), r"coding_rate expects .*\[B, N, C\]"),
        (lambda Z, pi: coding_rate(Z, eps=0.0), "eps > 0"),
        (lambda Z, pi: compression_rate(Z, pi[:, :-1]), "one row a token"),
        (lambda Z, pi: compression_rate(Z, pi, mask=torch.ones(2, 23)), "bool mask"),
        (lambda Z, pi: variational_rate(Z, pi, torch.ones(3, 7, 4)), r"\[K, C, P\] = \[3, 8, P\]"),
        (lambda Z, pi: projected_rate(Z, pi), r"\[B, N, K, P\]"),
        (lambda Z, pi: PowerRate(1.5), "exponent"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call(*inputs())
