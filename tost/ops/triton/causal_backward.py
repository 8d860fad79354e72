"""The causal operator on a GPU, backward, in the closed form of docs/math.md.

Sums run from the last token to the first here: A and B, then, after the softmax has coupled the heads, E. Again sums of
tokens and a scan over them. Three passes: the first finds M, and of u what a few tokens contribute to one another, so
that the second, where the heads of a token meet, needs w alone; the third gives dw. w is read three times, g twice, dw
written once: 6 |w| bytes, and 24 N H. What passes backwards is kept every 16 tokens, not every 64: their forward sums
are then made again in registers, token by token, and taken back in reverse, without a running sum across threads (which
cost several times more). That moves 9/16 of w in float32, 9/8 in half precision.
"""

# B batch, N tokens, H heads, D features per head, C = H*D, S sequences (or packed ones), P tiles, T tokens a tile

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.triton import settings
from tost.ops.triton.blocks import head_block, lane_block, load_token, real_rows
from tost.ops.triton.causal import Call
from tost.ops.triton.scan import scan
from tost.ops.triton.tiles import on_device, tile_at

FLOOR: tl.constexpr = tl.constexpr(CAUSAL_FLOOR)
EPS: tl.constexpr = tl.constexpr(MASS_EPS)


@triton.jit
def pull_kernel(
    w, g, decay, mask, membership, moments, inner, found, counts, table, first, N, H, D, WIDTH, FOUND,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """inner [B, N, H]: the own part of u of every ROWS tokens. found [P T/ROWS, H (D + 1) of FOUND]: what they pass
    back of A and B. One head of a tile."""
    p, h = tl.program_id(0), tl.program_id(1)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w, g = w + start * H * D, g + start * H * D
    membership, inner = membership + start * H, inner + start * H
    if MASKED:
        mask += start
    WIDE: tl.constexpr = membership.dtype.element_ty
    feature, exists = lane_block(D, LANES, EACH)
    own = moments + p.to(tl.int64) * WIDTH + h * (D + 1)
    S = tl.load(own + feature, mask=exists, other=0.0)
    P = tl.load(own + D + tl.arange(0, 1))
    for part in range(tl.cdiv(count, ROWS)):
        x, real, pi, gates = load_rows(
            w, mask, membership, decay, part * ROWS, count, h, H, D, feature, exists, ROWS, MASKED, GATED
        )
        y = load_features(g, part * ROWS, real, h, H, D, feature, exists, ROWS)
        M, Mm, inside = (), (), ()
        for i in tl.static_range(ROWS):
            token = x[i].to(WIDE)
            S = gates[i][:, None] * S + pi[i][:, None] * token * token
            P = gates[i] * P + pi[i]
            share = 1 / (P + EPS)
            m = S * share[:, None]
            q = 1 / (1 + m)
            inside += (q * token * y[i].to(WIDE),)
            M += (q * inside[i] * (pi[i] * share)[:, None],)
            Mm += (tl.sum(tl.sum(M[i] * m, 1), 0),)
        A = tl.zeros([LANES, EACH], WIDE)
        B = tl.zeros([1], WIDE)
        for i in tl.static_range(ROWS - 1, -1, -1):
            token = x[i].to(WIDE)
            A += M[i]
            B += Mm[i]
            u = tl.sum(tl.sum(A * token * token - inside[i], 1), 0) - B
            row = part * ROWS + i + tl.arange(0, 1)
            tl.store(inner + row * H + h, tl.where(real[i], u, 0.0), mask=row < count)
            A, B = gates[i][:, None] * A, gates[i] * B
        tile = p.to(tl.int64) * (T // ROWS) + part
        tl.store(found + tile * FOUND + h * (D + 1) + feature, A, mask=exists)
        tl.store(found + tile * FOUND + h * (D + 1) + D + tl.arange(0, 1), B)
        if h == 0:
            rows = part * ROWS + tl.arange(0, ROWS)
            tl.store(counts + tile, tl.sum(real_rows(rows, 0, count, mask, MASKED).to(tl.int32), 0))
    for part in range(tl.cdiv(count, ROWS), T // ROWS):  # beyond the end of a sequence nothing is found
        tile = p.to(tl.int64) * (T // ROWS) + part
        tl.store(found + tile * FOUND + h * (D + 1) + feature, tl.zeros([LANES, EACH], WIDE), mask=exists)
        tl.store(found + tile * FOUND + h * (D + 1) + D + tl.arange(0, 1), tl.zeros([1], WIDE))
        if h == 0:
            tl.store(counts + tile, 0)


@triton.jit
def load_rows(
    w, mask, membership, decay, begin, count, h, H, D, feature, exists,
    ROWS: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Of ROWS tokens, a tuple each: features, whether the token counts, membership, what survives the step to it."""
    x, real, pi, gates = (), (), (), ()
    for i in tl.static_range(ROWS):
        row = begin + i + tl.arange(0, 1)
        counts = real_rows(row, 0, count, mask, MASKED)
        weight = tl.load(membership + row * H + h, mask=counts, other=0.0)
        gate = tl.full([1], 1.0, weight.dtype)
        if GATED:
            gate = tl.where(counts, tl.load(decay + h), gate)
        place = (row * H + h)[:, None] * D + feature
        x += (tl.load(w + place, mask=counts[:, None] & exists, other=0.0),)
        real, pi, gates = real + (counts,), pi + (weight,), gates + (gate,)
    return x, real, pi, gates


@triton.jit
def load_features(w, begin, real, h, H, D, feature, exists, ROWS: tl.constexpr):
    """Features of ROWS tokens, a tuple."""
    x = ()
    for i in tl.static_range(ROWS):
        row = begin + i + tl.arange(0, 1)
        x += (tl.load(w + (row * H + h)[:, None] * D + feature, mask=real[i][:, None] & exists, other=0.0),)
    return x


@triton.jit
def couple_kernel(
    w, temperature, bias, decay, rates, mask, membership, energies, behind, inner, d_bias, found, dt,
    table, first, N, H, D, BIAS_ROWS, WIDTH, FOUND,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    PART: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """f [B, N, H] in place of inner; found [P T/PART, C]: what every PART tokens pass back of E; dt [P, H]: the
    temperature's part."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w = w + start * H * D
    membership, inner = membership + start * H, inner + start * H
    if MASKED:
        mask += start
    if BIASED:
        d_bias += start * H
    WIDE: tl.constexpr = membership.dtype.element_ty
    C = H * D
    head = tl.arange(0, HP)
    some = head < H
    feature, exists = head_block(H, D, HP, DP)
    with_mass = tl.arange(0, HP)[:, None] * (D + 1) + tl.arange(0, DP)[None, :]
    t = tl.load(temperature + head, mask=some, other=0.0)
    entered = tl.load(energies + p.to(tl.int64) * WIDTH + feature, mask=exists, other=0.0)
    gate = tl.full([HP], 1.0, WIDE)
    rate = tl.zeros([HP], WIDE)
    if GATED:
        gate = tl.load(decay + head, mask=some, other=1.0)
        rate = tl.load(rates + head, mask=some, other=0.0)
    energy = tl.zeros([HP, DP], WIDE)
    for_temperature = tl.zeros([HP], WIDE)
    coming, comes = load_token(w, 0, count, mask, C, feature, exists, MASKED)
    for part in range(T // PART):
        tile = p.to(tl.int64) * (T // PART) + part
        A = tl.load(behind + tile * FOUND + with_mass, mask=exists, other=0.0)
        B = tl.load(behind + tile * FOUND + head * (D + 1) + D, mask=some, other=0.0)
        left = tl.zeros([1], tl.int32)
        gone = tl.zeros([1], tl.int32)
        begin = part * PART
        if GATED:
            left += tl.sum(real_rows(begin + tl.arange(0, PART), 0, count, mask, MASKED).to(tl.int32), 0)
        passed = tl.zeros([HP, DP], WIDE)
        for row in range(begin, tl.minimum(begin + PART, count)):
            x, real = coming.to(WIDE), comes
            coming, comes = load_token(w, row + 1, count, mask, C, feature, exists, MASKED)
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
            inverse = 1 / tl.maximum(a, FLOOR)
            share = square * inverse
            score = tl.sum(share, 1)
            if BIASED:
                score += D * tl.load(bias + ((start + row) % BIAS_ROWS) * H + head, mask=some, other=0.0)
            pi = tl.load(membership + row * H + head, mask=some, other=0.0)
            u = tl.load(inner + row * H + head, mask=some, other=0.0) + reach * (tl.sum(A * square, 1) - B)
            e = pi * (u - tl.sum(pi * u, 0))
            f = t * e
            tl.store(inner + row * H + head, f, mask=some)
            if BIASED:
                tl.store(d_bias + row * H + head, D * f, mask=some)
            for_temperature += e * score
            passed += (through * f)[:, None] * tl.where(a >= FLOOR, share * inverse, 0.0)
        tl.store(found + tile * C + feature, passed, mask=exists)
    tl.store(dt + p * H + head, for_temperature, mask=some)


@triton.jit
def gradient_kernel(
    w, g, decay, mask, membership, energies, moments, behind, E_behind, f, dw, dl,
    table, first, N, H, D, WIDTH, FOUND,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """dw [B, N, H, D], and dl [P, H]: l times the gradient of the decay; one head of a tile, ROWS tokens at once."""
    p, h = tl.program_id(0), tl.program_id(1)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w, g, dw = w + start * H * D, g + start * H * D, dw + start * H * D
    membership, f = membership + start * H, f + start * H
    if MASKED:
        mask += start
    WIDE: tl.constexpr = membership.dtype.element_ty
    feature, exists = lane_block(D, LANES, EACH)
    own = moments + p.to(tl.int64) * WIDTH + h * (D + 1)
    S = tl.load(own + feature, mask=exists, other=0.0)
    P = tl.load(own + D + tl.arange(0, 1))
    a = tl.load(energies + p.to(tl.int64) * WIDTH + h * D + feature, mask=exists, other=0.0)
    for_decay = tl.zeros([1], WIDE)
    for part in range(tl.cdiv(count, ROWS)):
        x, real, pi, gates = load_rows(
            w, mask, membership, decay, part * ROWS, count, h, H, D, feature, exists, ROWS, MASKED, GATED
        )
        y = load_features(g, part * ROWS, real, h, H, D, feature, exists, ROWS)
        # what is left of each sum before a token, and what its gradient needs
        kept_a, kept_S, kept_P, M, Mm, q = (), (), (), (), (), ()
        for i in tl.static_range(ROWS):
            token = x[i].to(WIDE)
            square = token * token
            kept_a += (gates[i][:, None] * a,)
            kept_S += (gates[i][:, None] * S,)
            kept_P += (gates[i] * P,)
            a = kept_a[i] + square
            S = kept_S[i] + pi[i][:, None] * square
            P = kept_P[i] + pi[i]
            share = 1 / (P + EPS)
            m = S * share[:, None]
            q += (1 / (1 + m),)
            M += (q[i] * q[i] * token * y[i].to(WIDE) * (pi[i] * share)[:, None],)
            if GATED:
                Mm += (tl.sum(tl.sum(M[i] * m, 1), 0),)
        tile = p.to(tl.int64) * (T // ROWS) + part
        A = tl.load(behind + tile * FOUND + h * (D + 1) + feature, mask=exists, other=0.0)
        B = tl.load(behind + tile * FOUND + h * (D + 1) + D + tl.arange(0, 1))
        E = tl.load(E_behind + (tile * H + h) * D + feature, mask=exists, other=0.0)
        for i in tl.static_range(ROWS - 1, -1, -1):
            row = part * ROWS + i + tl.arange(0, 1)
            force = tl.load(f + row * H + h, mask=real[i], other=0.0)[:, None]
            token = x[i].to(WIDE)
            square = token * token
            energy = kept_a[i] + square
            live = energy >= FLOOR
            inverse = 1 / tl.maximum(energy, FLOOR)
            A += M[i]
            # f/c - E with its own share f w^2/c^2 taken out first: what stays is the kept energy's
            pull = pi[i][:, None] * A + force * inverse * tl.where(live, kept_a[i] * inverse, 1.0) - E
            out = 2 * token * pull - pi[i][:, None] * q[i] * y[i].to(WIDE)
            place = (row * H + h)[:, None] * D + feature
            tl.store(dw + place, out.to(dw.dtype.element_ty), mask=(row < count)[:, None] & exists)
            E += tl.where(live, force * (square * inverse) * inverse, 0.0)
            if GATED:
                B += Mm[i]
                lost = tl.sum(tl.sum(A * kept_S[i] - E * kept_a[i], 1), 0) - B * kept_P[i]
                for_decay += tl.where(real[i], lost, 0.0)
                A, B, E = gates[i][:, None] * A, gates[i] * B, gates[i][:, None] * E
    if GATED:
        tl.store(dl + p * H + h + tl.arange(0, 1), for_decay)


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
    lanes = settings.lanes("causal gradient", w, tiles)
    parts = tiles.T // lanes["ROWS"]  # of a tile: what passes from token to token backwards is kept between them
    found, behind = call.empty(tiles.P * parts, FOUND), call.empty(tiles.P * parts, FOUND)
    E_found, E_behind = call.empty(tiles.P * parts, C), call.empty(tiles.P * parts, C)
    counts = call.empty(tiles.P * parts, dtype=torch.int32)
    shared = {**tiles.arguments, **call.flags, **call.shape, "WIDTH": WIDTH, "FOUND": FOUND}
    pull_kernel[tiles.P, H](
        w, g, call.decay, call.mask, membership, states[:, C:], inner, found, counts, **shared, **lanes
    )
    scan(found, behind, A_in, A_out, tiles, counts, rates, D + 1, parts, reverse=True)
    couple_kernel[tiles.P,](
        w, call.temperature, call.bias, call.decay, rates, call.mask, membership, states, behind, inner, d_bias,
        E_found, dt, PART=lanes["ROWS"], **shared, **call.biased, **settings.token("causal couple", w),
    )  # fmt: skip
    scan(E_found, E_behind, E_in, E_out, tiles, counts, rates, D, parts, reverse=True)
    gradient_kernel[tiles.P, H](
        w, g, call.decay, call.mask, membership, states, states[:, C:], behind, E_behind, inner, dw, dl,
        **shared, **lanes,
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
