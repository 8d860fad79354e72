"""The causal operator on a GPU, backward, in the closed form of docs/math.md.

Sums run from the last token to the first here: A and B, then, after the softmax has coupled the heads, E. Again tiles
and a scan over tiles. The first pass also finds what a tile's own tokens contribute to u, so that the second needs w
alone, and there the heads of a token meet; the other passes take one head of a tile. w is read three times, g twice, dw
written once: 6 |w| bytes, plus 24 N H and the sums between tiles.

Exclusive sums (what came before a token, what follows it) are summed as such, from the neighbouring row: an inclusive
sum less its own term would cancel at the first tokens.
"""

# B batch, N tokens, H heads, D features per head, C = H*D, S sequences (or packed ones), P tiles, T tokens a tile

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.triton import settings
from tost.ops.triton.blocks import head_block, load_token, real_rows, running
from tost.ops.triton.causal import Call, gates
from tost.ops.triton.scan import scan
from tost.ops.triton.tiles import on_device, tile_at

FLOOR: tl.constexpr = tl.constexpr(CAUSAL_FLOOR)
EPS: tl.constexpr = tl.constexpr(MASS_EPS)


@triton.jit
def following(
    decay, rates, rows, real, start, end, mask, h, WIDE: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr
):
    """By row: what survives the step to the next row, and what survives of what comes from behind the tile."""
    ones = tl.where(real, 1.0, 1.0).to(WIDE)
    if GATED:
        one = real.to(tl.int32)
        behind = tl.cumsum(one, 0, reverse=True) - one
        next_gate = tl.where(real_rows(rows + 1, start, end, mask, MASKED), tl.load(decay + h), ones)
        return next_gate, tl.exp2(tl.load(rates + h) * behind.to(WIDE))
    return ones, ones


@triton.jit
def pull_kernel(
    w, g, decay, rates, mask, membership, moments, inner, found, counts, table, first, N, H, D, WIDTH, FOUND,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """inner [B, N, H]: a tile's own part of u. found [P, H (D + 1) of FOUND]: what it passes back of A and B."""
    p, h = tl.program_id(0), tl.program_id(1)
    sequence, start, end = tile_at(p, table, N, T, PACKED)
    WIDE: tl.constexpr = membership.dtype.element_ty
    rows = start + tl.arange(0, T)
    d = tl.arange(0, DP)
    real = real_rows(rows, start, end, mask, MASKED)
    here = real[:, None] & (d < D)[None, :]
    place = (rows[:, None] * H + h) * D + d[None, :]
    x = tl.load(w + place, mask=here, other=0.0).to(WIDE)
    product = x * tl.load(g + place, mask=here, other=0.0).to(WIDE)
    square = x * x
    pi = tl.load(membership + rows * H + h, mask=real, other=0.0)
    own = moments + p.to(tl.int64) * WIDTH + h * (D + 1)
    gate, through = gates(decay, rates, real, h, WIDE, GATED)
    gate_after, _ = following(decay, rates, rows, real, start, end, mask, h, WIDE, MASKED, GATED)
    Q = running(pi, gate, GATED, False) + through * tl.load(own + D) + EPS
    moment = running(pi[:, None] * square, gate[:, None] + tl.zeros_like(x), GATED, False)
    m = (moment + through[:, None] * tl.load(own + d, mask=d < D, other=0.0)[None, :]) / Q[:, None]
    q = 1 / (1 + m)
    M = q * q * pi[:, None] * product / Q[:, None]
    Mm = tl.sum(M * m, 1)
    A = running(M, gate_after[:, None] + tl.zeros_like(x), GATED, True)
    B = running(Mm, gate_after, GATED, True)
    u = tl.sum(A * square - q * product, 1) - B
    tl.store(inner + rows * H + h, tl.where(real, u, 0.0), mask=rows < end)
    out = found + p.to(tl.int64) * FOUND + h * (D + 1)
    tl.store(out + d, tl.sum(through[:, None] * M, 0), mask=d < D)
    tl.store(out + D, tl.sum(through * Mm, 0))
    if h == 0:
        tl.store(counts + p, tl.sum(real.to(tl.int32), 0))


@triton.jit
def couple_kernel(
    w, temperature, bias, decay, rates, mask, membership, energies, behind, inner, d_bias, found, dt,
    table, first, N, H, D, BIAS_ROWS, WIDTH, FOUND,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """f [B, N, H] in place of inner; found [P, C]: what a tile passes back of E; dt [P, H]: the temperature's part."""
    p = tl.program_id(0)
    sequence, start, end = tile_at(p, table, N, T, PACKED)
    WIDE: tl.constexpr = membership.dtype.element_ty
    C = H * D
    head = tl.arange(0, HP)
    some = head < H
    feature, exists = head_block(H, D, HP, DP)
    with_mass = tl.arange(0, HP)[:, None] * (D + 1) + tl.arange(0, DP)[None, :]
    t = tl.load(temperature + head, mask=some, other=0.0)
    entered = tl.load(energies + p.to(tl.int64) * WIDTH + feature, mask=exists, other=0.0)
    back = behind + p.to(tl.int64) * FOUND
    A = tl.load(back + with_mass, mask=exists, other=0.0)
    B = tl.load(back + head * (D + 1) + D, mask=some, other=0.0)
    gate = tl.full([HP], 1.0, WIDE)
    rate = tl.zeros([HP], WIDE)
    left = tl.zeros([1], tl.int32)
    if GATED:
        gate = tl.load(decay + head, mask=some, other=1.0)
        rate = tl.load(rates + head, mask=some, other=0.0)
        left += tl.sum(real_rows(start + tl.arange(0, T), start, end, mask, MASKED).to(tl.int32), 0)
    gone = tl.zeros([1], tl.int32)
    energy = tl.zeros([HP, DP], WIDE)
    passed = tl.zeros([HP, DP], WIDE)
    for_temperature = tl.zeros([HP], WIDE)
    coming, comes = load_token(w, start, start, end, mask, C, feature, exists, MASKED)
    for row in range(start, end):
        x, real = coming.to(WIDE), comes
        coming, comes = load_token(w, row + 1, start, end, mask, C, feature, exists, MASKED)
        square = x * x
        reach = tl.full([HP], 1.0, WIDE)
        through = tl.full([HP], 1.0, WIDE)
        if GATED:
            l = tl.where(real, gate, 1.0)[:, None]
            entered, energy = l * entered, l * energy
            gone += real.to(tl.int32)
            left -= real.to(tl.int32)
            reach = tl.exp2(rate * left.to(WIDE))
            through = tl.exp2(rate * gone.to(WIDE))
        energy += square
        a = entered + energy
        c = tl.maximum(a, FLOOR)
        share = square / c
        score = tl.sum(share, 1)
        if BIASED:
            score += D * tl.load(bias + (row % BIAS_ROWS) * H + head, mask=some, other=0.0)
        pi = tl.load(membership + row * H + head, mask=some, other=0.0)
        u = tl.load(inner + row * H + head, mask=some, other=0.0) + reach * (tl.sum(A * square, 1) - B)
        e = pi * (u - tl.sum(pi * u, 0))
        f = t * e
        tl.store(inner + row * H + head, f, mask=some)
        if BIASED:
            tl.store(d_bias + row * H + head, D * f, mask=some)
        for_temperature += e * score
        passed += (through * f)[:, None] * tl.where(a >= FLOOR, share / c, 0.0)
    tl.store(found + p.to(tl.int64) * C + feature, passed, mask=exists)
    tl.store(dt + p * H + head, for_temperature, mask=some)


@triton.jit
def gradient_kernel(
    w, g, decay, rates, mask, membership, energies, moments, behind, E_behind, f, dw, dl,
    table, first, N, H, D, WIDTH, FOUND,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """dw [B, N, H, D], and dl [P, H]: l times the gradient of the decay; one head of a tile."""
    p, h = tl.program_id(0), tl.program_id(1)
    sequence, start, end = tile_at(p, table, N, T, PACKED)
    WIDE: tl.constexpr = membership.dtype.element_ty
    rows = start + tl.arange(0, T)
    d = tl.arange(0, DP)
    some = d < D
    tile = p.to(tl.int64)
    real = real_rows(rows, start, end, mask, MASKED)
    earlier = real_rows(rows - 1, start, end, mask, MASKED)
    later = real_rows(rows + 1, start, end, mask, MASKED)
    place = (rows[:, None] * H + h) * D + d[None, :]
    x = tl.load(w + place, mask=real[:, None] & some[None, :], other=0.0).to(WIDE)
    before = tl.load(w + place - H * D, mask=earlier[:, None] & some[None, :], other=0.0).to(WIDE)
    after = tl.load(w + place + H * D, mask=later[:, None] & some[None, :], other=0.0).to(WIDE)
    product = tl.load(g + place, mask=real[:, None] & some[None, :], other=0.0).to(WIDE)
    by_head = rows * H + h
    pi = tl.load(membership + by_head, mask=real, other=0.0)
    pi_before = tl.load(membership + by_head - H, mask=earlier, other=0.0)
    force = tl.load(f + by_head, mask=real, other=0.0)
    force_after = tl.load(f + by_head + H, mask=later, other=0.0)
    gate, through = gates(decay, rates, real, h, WIDE, GATED)
    gate_after, reach = following(decay, rates, rows, real, start, end, mask, h, WIDE, MASKED, GATED)
    gates_here = gate[:, None] + tl.zeros_like(x)
    gates_after = gate_after[:, None] + tl.zeros_like(x)
    # what is left of the sums before each token, then the sums with it
    own = moments + tile * WIDTH + h * (D + 1)
    square = x * x
    old_energy = running(gates_here * before * before, gates_here, GATED, False)
    old_energy += through[:, None] * tl.load(energies + tile * WIDTH + h * D + d, mask=some, other=0.0)[None, :]
    old_moment = running(gates_here * pi_before[:, None] * before * before, gates_here, GATED, False)
    old_moment += through[:, None] * tl.load(own + d, mask=some, other=0.0)[None, :]
    old_mass = running(gate * pi_before, gate, GATED, False) + through * tl.load(own + D)
    energy = old_energy + square
    c = tl.maximum(energy, FLOOR)
    live = energy >= FLOOR
    Q = old_mass + pi + EPS
    m = (old_moment + pi[:, None] * square) / Q[:, None]
    q = 1 / (1 + m)
    M = q * q * pi[:, None] * x * product / Q[:, None]
    back = behind + tile * FOUND + h * (D + 1)
    A = running(M, gates_after, GATED, True)
    A += reach[:, None] * tl.load(back + d, mask=some, other=0.0)[None, :]
    energy_after = gates_after * energy + after * after
    c_after = tl.maximum(energy_after, FLOOR)
    term = tl.where(energy_after >= FLOOR, force_after[:, None] * (after * after / c_after) / c_after, 0.0)
    E_after = running(gates_after * term, gates_after, GATED, True)
    E_after += reach[:, None] * tl.load(E_behind + (tile * H + h) * D + d, mask=some, other=0.0)[None, :]
    # f/c - E with its own share f w^2/c^2 taken out first: what stays is the kept energy's
    pull = pi[:, None] * A + force[:, None] / c * tl.where(live, old_energy / c, 1.0) - E_after
    out = 2 * x * pull - pi[:, None] * q * product
    tl.store(dw + place, out.to(dw.dtype.element_ty), mask=(rows < end)[:, None] & some[None, :])
    if GATED:
        B = running(tl.sum(M * m, 1), gate_after, GATED, True) + reach * tl.load(back + D)
        E = E_after + tl.where(live, force[:, None] * (square / c) / c, 0.0)
        share = tl.sum(A * old_moment - E * old_energy, 1) - B * old_mass
        tl.store(dl + p * H + h, tl.sum(tl.where(real, share, 0.0), 0))


def causal_backward(
    g: Tensor,
    g_energy: Tensor | None,
    g_moment: Tensor | None,
    g_mass: Tensor | None,
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    energy: Tensor | None,
    moment: Tensor | None,
    mass: Tensor | None,
    membership: Tensor,
    states: Tensor,
    wants_decay: bool,
) -> tuple[Tensor, ...]:
    """Gradients to w, temperature, bias, decay, energy, moment, mass; empty where there is no such input."""
    call = Call(w, temperature, bias, decay, mask, cu_seqlens, True)
    given = (energy, moment, mass)
    incoming = [None if part is None else part.double().contiguous() for part in (g_energy, g_moment, g_mass)]
    with on_device(w):
        dw, dt, d_bias, dl, ends = _gradients(call, g.contiguous(), incoming, membership, states)
    if bias is not None:
        d_bias = d_bias.sum_to_size(bias.shape).to(bias.dtype)
    d_decay = w.new_empty(0, dtype=torch.float64)
    if wants_decay and decay is not None:
        d_decay = (dl.sum(0, dtype=torch.float64) / decay.double()).to(decay.dtype)
    nothing = w.new_empty(0, dtype=torch.float64)
    d_state = [nothing.clone() if part is None else end.to(part.dtype) for part, end in zip(given, ends)]
    return dw, dt.sum(0, dtype=torch.float64).to(temperature.dtype), d_bias, d_decay, *d_state


def _gradients(
    call: Call, g: Tensor, incoming: list[Tensor | None], membership: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """dw, dt [P, H], d_bias [B, N, H], dl [P, H], and what leaves the first token of each sequence."""
    w, tiles, rates = call.w, call.tiles, call.rates
    B, N, H, D = w.shape
    C, double = H * D, torch.float64
    WIDTH, FOUND = H * (2 * D + 1), H * (D + 1)
    dw, inner = torch.empty_like(w), call.empty(B, N, H)
    dt, dl = call.empty(tiles.P, H), call.empty(tiles.P, H)
    d_bias = call.empty(*((0,) if call.bias is None else (B, N, H)))
    A_out, E_out = call.empty(tiles.S, H, D + 1, dtype=double), call.empty(tiles.S, H, D, dtype=double)
    A_in, E_in = _entering(call, incoming)
    if not tiles.P or not tiles.S:
        ends = _leaving(A_out.zero_() if A_in is None else A_in, E_out.zero_() if E_in is None else E_in)
        return dw, dt, d_bias, dl, ends
    found, behind = call.empty(tiles.P, FOUND), call.empty(tiles.P, FOUND)
    E_found, E_behind = call.empty(tiles.P, C), call.empty(tiles.P, C)
    counts = call.empty(tiles.P, dtype=torch.int32)
    shared = {**tiles.arguments, **call.flags, **call.shape, "WIDTH": WIDTH}
    pull_kernel[tiles.P, H](
        w, g, call.decay, rates, call.mask, membership, states[:, C:], inner, found, counts,
        FOUND=FOUND, **shared, **settings.tile_head("causal pull", w, tiles),
    )  # fmt: skip
    scan(found, behind, A_in, A_out, tiles, counts, rates, D + 1, reverse=True)
    couple_kernel[tiles.P,](
        w, call.temperature, call.bias, call.decay, rates, call.mask, membership, states, behind, inner, d_bias,
        E_found, dt, FOUND=FOUND, **shared, **call.biased, **settings.token("causal couple", w),
    )  # fmt: skip
    scan(E_found, E_behind, E_in, E_out, tiles, counts, rates, D, reverse=True)
    gradient_kernel[tiles.P, H](
        w, g, call.decay, rates, call.mask, membership, states, states[:, C:], behind, E_behind, inner, dw, dl,
        FOUND=FOUND, **shared, **settings.tile_head("causal gradient", w, tiles),
    )  # fmt: skip
    return dw, dt, d_bias, dl, _leaving(A_out, E_out)


def _entering(call: Call, incoming: list[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    """A with B [S, H, D + 1], and E [S, H, D], behind the last token, from the outgoing state's gradients."""
    g_energy, g_moment, g_mass = incoming
    S, H, D = call.tiles.S, call.shape["H"], call.shape["D"]
    if g_moment is None and g_mass is None:
        A = None
    else:
        A = call.w.new_zeros(S, H, D + 1, dtype=torch.float64)
        if g_moment is not None:
            A[..., :D] = g_moment
        if g_mass is not None:
            A[..., D] = -g_mass
    return A, None if g_energy is None else -g_energy


def _leaving(A: Tensor, E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The incoming state's gradients: to energy, moment and mass."""
    return -E, A[..., :-1].contiguous(), -A[..., -1]
