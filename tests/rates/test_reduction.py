"""Maximal coding rate reduction: against the public package mcr2, as a loss that learns, and the nearest subspace."""

# N examples, C features, K classes

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from tost.rates import MCR2Loss, NearestSubspace, coding_rate, compression_rate, rate_reduction
from tost.rates.reduction import sphere


def examples(N=80, C=12, K=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(N, C, generator=generator, dtype=dtype)
    return Z, torch.randint(0, K, (N,), generator=generator)


def planes(N=90, C=12, K=3, width=2, noise=0.02, seed=0):
    """Classes in random planes through the origin."""
    generator = torch.Generator().manual_seed(seed)
    bases = torch.linalg.qr(torch.randn(K, C, width, generator=generator))[0]
    labels = torch.arange(N) % K
    Z = torch.einsum("ncp,np->nc", bases[labels], torch.randn(N, width, generator=generator))
    return Z + noise * torch.randn(N, C, generator=generator), labels, bases


@pytest.mark.parametrize("eps", [0.3, 0.5, 2.0], ids=lambda e: f"eps{e}")
@pytest.mark.parametrize("N", [9, 80], ids=lambda n: f"N{n}")
def test_values_and_gradients_are_the_public_packages(eps, N):
    """mcr2 1.0.2 (druvpai/MCR2): float32, by eigenvalues of every C x C second moment."""
    primitives = pytest.importorskip("mcr2.primitives.coding_rate")
    Z, labels = examples(N=N, dtype=torch.float32)
    groups = torch.nn.functional.one_hot(labels, 4)
    Z.requires_grad_()
    for ours, theirs in (
        (coding_rate(Z, eps), primitives.R(Z, eps)),
        (compression_rate(Z, groups, eps), primitives.Rc(Z, groups, eps)),
        (rate_reduction(Z, groups, eps), primitives.DeltaR(Z, groups, eps)),
    ):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        (a,), (b,) = torch.autograd.grad(ours, Z), torch.autograd.grad(theirs, Z)
        assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_reduction_is_the_published_formula():
    """arXiv 2006.08558, equation 11, by log determinants of each class's examples."""
    Z, labels = examples()
    N, C = Z.shape

    def logdet(rows):
        return torch.logdet(torch.eye(C, dtype=Z.dtype) + C / (len(rows) * 0.5**2) * rows.T @ rows)

    expected = logdet(Z) / 2 - sum(int((labels == k).sum()) / (2 * N) * logdet(Z[labels == k]) for k in range(4))
    got = rate_reduction(Z, torch.nn.functional.one_hot(labels, 4).double())
    assert_close(got, expected, rtol=1e-12, atol=0)


def test_the_loss_is_the_reduction_on_the_sphere():
    Z, labels = examples()
    loss, unit = MCR2Loss(4, eps=0.4), Z / Z.norm(dim=1, keepdim=True)
    groups = torch.nn.functional.one_hot(labels, 4).double()
    assert_close(loss(Z, labels), -rate_reduction(unit, groups, 0.4), rtol=1e-12, atol=0)
    assert_close(loss(3 * Z, labels), loss(Z, labels), rtol=1e-12, atol=0)
    mixed = 0.7 * groups + 0.3 * groups.roll(1, 0)
    assert_close(loss(Z, mixed), -rate_reduction(unit, mixed, 0.4), rtol=1e-12, atol=0)


def test_the_loss_has_the_gradient_of_its_value():
    Z, labels = examples(N=14, C=5)
    loss = MCR2Loss(4)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (Z.requires_grad_(),))


@pytest.mark.parametrize("batch", ["empty", "one class", "one example", "zeros"])
def test_poor_batches_leave_numbers(batch):
    Z, labels = examples(dtype=torch.float32)
    Z = {"empty": Z[:0], "one example": Z[:1], "zeros": torch.zeros_like(Z)}.get(batch, Z).clone().requires_grad_()
    labels = torch.zeros_like(labels) if batch == "one class" else labels[: len(Z)]
    loss = MCR2Loss(4)(Z, labels)
    loss.backward()
    assert_close(loss, torch.zeros(()), rtol=0, atol=1e-5)  # one group, or nothing to tell apart
    assert Z.grad.isfinite().all()


def test_half_precision_features_are_widened():
    Z, labels = examples(dtype=torch.float32)
    loss = MCR2Loss(4)(Z.bfloat16(), labels)
    assert loss.dtype == torch.float32
    assert_close(loss, MCR2Loss(4)(Z.bfloat16().float(), labels))


def test_learning_by_it_makes_classes_orthogonal():
    """Free features: classes end in subspaces at right angles, each filled, as the theory says (C = K * 3)."""
    labels = torch.arange(120) % 4
    Z = torch.randn(120, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimiser, loss = torch.optim.Adam([Z], lr=0.05), MCR2Loss(4)
    for _ in range(300):
        optimiser.zero_grad()
        loss(Z, labels).backward()
        optimiser.step()
    unit = sphere(Z.detach())
    across = (unit @ unit.T)[labels[:, None] != labels].abs()
    best = 6 * math.log(1 + 48 / 12) - 1.5 * math.log(1 + 48 / 3)  # C / eps^2 = 48; 12 and 4 x 3 equal variances
    assert loss(Z, labels).item() == pytest.approx(-best, abs=1e-3)
    assert across.max() < 0.02
    for k in range(4):
        values = torch.linalg.svdvals(unit[labels == k])
        assert values[2] > 0.8 * values[0] and values[3] < 0.05 * values[0]


def test_nearest_subspace_finds_planes():
    Z, labels, bases = planes()
    judge = NearestSubspace.fit(Z, labels, 3, width=2)
    overlap = torch.linalg.svdvals(bases.mT @ judge.basis)
    assert (overlap > 0.98).all()  # the planes it was made of
    assert torch.equal(judge(Z), labels)
    fresh, truth, _ = planes(seed=0, N=300)
    assert (judge(fresh) == truth).float().mean() > 0.98
    assert torch.equal(judge(-5 * Z), labels)  # a subspace has neither sign nor size


def test_residuals_are_what_the_projection_leaves():
    Z, labels, _ = planes()
    judge = NearestSubspace.fit(Z, labels, 3, width=2)
    unit = Z / Z.norm(dim=1, keepdim=True)
    left = torch.stack([(unit - unit @ U @ U.T).square().sum(1) for U in judge.basis], 1)
    assert_close(judge.residuals(Z), left, rtol=1e-4, atol=1e-6)
    decomposition = pytest.importorskip("sklearn.decomposition")
    theirs = decomposition.TruncatedSVD(2, algorithm="arpack").fit(unit[labels == 1].double().numpy()).components_
    mine = judge.basis[1].double()
    assert_close(mine @ mine.T, torch.from_numpy(theirs.T @ theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda Z, y: MCR2Loss(3)(Z, y), "labels .* from 0 to 2"),
        (lambda Z, y: MCR2Loss(4)(Z, y[:, None]), r"memberships \[N, 4\]"),
        (lambda Z, y: MCR2Loss(4, eps=0.0)(Z, y), "eps > 0"),
        (lambda Z, y: NearestSubspace.fit(Z, y, 4, 12), "width of 1 to 11"),
        (lambda Z, y: NearestSubspace.fit(Z, y, 4, 0), "width of 1 to"),
        (lambda Z, y: NearestSubspace.fit(Z, y, 5, 2), "rarest class"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call(*examples())
