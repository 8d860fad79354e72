"""Weighted second moments of tokens, by the smaller of their two Grams and without a copy of the tokens per group."""

# B batch, N tokens, C features, K groups

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.rates.concave import Concave
from tost.rates.inputs import Groups

STRIP = 192  # features of one product: narrow enough to skip most of the upper triangle, wide enough for the cache


def group_rates(tokens: Tensor, groups: Groups, rate: Concave) -> Tensor:
    """F(Z^T Diag(pi_k) Z / n_k) of every group: [B, N, C] -> [B, K].

    One group after the other: each takes one Gram, whose memory the next one uses again.
    """
    masses = groups.safe_mass.unbind(-1)
    parts = members(tokens, groups.membership)
    found = [group_rate(*part, mass, rate) for part, mass in zip(parts, masses)]
    return torch.stack(found, -1) if found else tokens.new_zeros(len(tokens), 0)


def group_rate(tokens: Tensor, weights: Tensor | None, mass: Tensor, rate: Concave) -> Tensor:
    """F(Z^T Diag(weights) Z / mass): tokens [B, N, C], weights [B, N] (None: all 1), mass [B] -> [B]."""
    return rate.spectral(_smaller_gram(tokens, weights) / mass[:, None, None])


def members(tokens: Tensor, membership: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(tokens, weights) of every group: all of them, or the members alone where that is less work for all together.

    So labels for groups cost what one group does. It takes one sequence on the CPU, and memberships that don't learn:
    the zeros of those that do have slopes.
    """
    whole = [(tokens, weights) for weights in membership.unbind(-1)]
    if len(tokens) != 1 or membership.requires_grad or tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return whole
    group, index = membership[0].T.nonzero(as_tuple=True)
    if len(index) > tokens.shape[1]:
        return whole
    sizes = group.bincount(minlength=membership.shape[2]).tolist()
    chosen, weights = tokens.index_select(1, index), membership[0, index, group].unsqueeze(0)
    return list(zip(chosen.split(sizes, 1), weights.split(sizes, 1)))


def _smaller_gram(tokens: Tensor, weights: Tensor | None) -> Tensor:
    """A matrix with the non-zero eigenvalues of Z^T Diag(weights) Z, [B, C, C] or [B, N, N]: the smaller."""
    if tokens.shape[2] <= tokens.shape[1]:
        return Gram.apply(tokens, weights)
    if weights is not None:
        # the square root's slope is infinite at 0, so it starts from the smallest normal number: products are exact
        tokens = (weights + torch.finfo(tokens.dtype).tiny).sqrt().unsqueeze(-1) * tokens
    return tokens @ tokens.mT


class Gram(torch.autograd.Function):
    """Z^T Diag(weights) Z. The backward keeps Z and the weights, not their product, and multiplies once.

    tokens [B, N, C], weights [B, N] or None -> [B, C, C].
    """

    @staticmethod
    def forward(tokens: Tensor, weights: Tensor | None) -> Tensor:
        B, _, C = tokens.shape
        gram = tokens.new_empty(B, C, C)
        for start in range(0, C, STRIP):  # the triangle in strips of rows, then mirrored: half the products
            stop = min(start + STRIP, C)
            strip = tokens[..., start:stop] if weights is None else weights.unsqueeze(-1) * tokens[..., start:stop]
            gram[:, start:stop, :stop] = strip.mT @ tokens[..., :stop]
            gram[:, :start, start:stop] = gram[:, start:stop, :start].mT
        return gram

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        tokens, weights = ctx.saved_tensors
        turned = tokens @ (gradient + gradient.mT)
        if weights is None:
            return turned, None
        slopes = (turned * tokens).sum(-1) / 2 if ctx.needs_input_grad[1] else None
        return weights.unsqueeze(-1) * turned, slopes
