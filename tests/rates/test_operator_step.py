"""The operator is a descent step on the variational compression rate."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tost.ops import tssa
from tost.rates import LogRate, variational_gradient, variational_rate

# B batch, N tokens, C features, H heads, D features per head


def tokens_and_subspaces(H, D, C, N=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(H, C, D, generator=generator, dtype=torch.float64))[0]
    return 2 * torch.randn(2, N, C, generator=generator, dtype=torch.float64), U


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_output_is_the_negative_gradient(backend):
    """y lifted back by U is -n grad Rvar, with f(x) = log(1 + x) and the memberships held."""
    Z, U = tokens_and_subspaces(H=3, D=4, C=12)
    w = torch.einsum("bnc,hcd->bnhd", Z, U)
    temperature = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    y, stats = tssa(w, temperature, return_stats=True, backend=backend)
    step = torch.einsum("bnhd,hcd->bnc", y, U)
    Z.requires_grad_()
    (gradient,) = torch.autograd.grad(variational_rate(Z, stats.membership, U, f=LogRate(1.0)).sum(), Z)
    assert_close(step, -Z.shape[1] * gradient, rtol=1e-7, atol=1e-9)  # the operator adds 1e-8 to the masses


@pytest.mark.parametrize("heads", [1, 3, 6], ids=lambda h: f"H{h}")
def test_output_is_the_closed_form_with_the_memberships_given(heads):
    """The same without autograd, and with the memberships of other tokens: only Pi enters, not where it is from."""
    Z, U = tokens_and_subspaces(H=heads, D=12 // heads, C=12)
    w = torch.einsum("bnc,hcd->bnhd", Z, U)
    y, stats = tssa(w, torch.full((heads,), 8.0, dtype=torch.float64), return_stats=True)
    step = torch.einsum("bnhd,hcd->bnc", y, U)
    closed = variational_gradient(Z, stats.membership, U, f=LogRate(1.0))
    assert_close(step, -Z.shape[1] * closed, rtol=1e-7, atol=1e-9)  # the operator adds 1e-8 to the masses
    other = tssa(torch.roll(w, 1, 1), torch.full((heads,), 8.0, dtype=torch.float64), return_stats=True)[1].membership
    moment = torch.einsum("bnh,bnhd->bhd", other, w**2) / other.sum(1)[..., None]
    step = torch.einsum("bnhd,hcd->bnc", -other[..., None] * w / (1 + moment[:, None]), U)
    closed = variational_gradient(Z, other, U, f=LogRate(1.0))
    assert_close(step, -Z.shape[1] * closed, rtol=1e-12, atol=1e-12)


def test_a_step_lowers_the_rate_and_many_steps_lower_it_further():
    Z, U = tokens_and_subspaces(H=3, D=4, C=12)
    temperature = torch.full((3,), 10.0, dtype=torch.float64)
    membership = tssa(torch.einsum("bnc,hcd->bnhd", Z, U), temperature, return_stats=True)[1].membership
    rates = [variational_rate(Z, membership, U, f=LogRate(1.0))]
    for _ in range(4):
        Z = Z + 0.3 * torch.einsum("bnhd,hcd->bnc", tssa(torch.einsum("bnc,hcd->bnhd", Z, U), temperature), U)
        rates.append(variational_rate(Z, membership, U, f=LogRate(1.0)))
    falls = torch.stack(rates).diff(dim=0)
    assert (falls < -1e-3).all()
