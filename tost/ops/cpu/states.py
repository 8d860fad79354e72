"""The causal kernels' states at the seams: between calls, and between workers that share a sequence."""

# H heads, D features per head, Dp = D padded to whole vectors, C = H*D

from __future__ import annotations

from tost.ops.cpu.blocks import FLOAT64, clear, device
from tost.ops.cpu.simd import get, pointer, put


@device
def take_over(sums, given, s, H, D, Dp, parts, words, factors, slot, before):
    """The sums [H, Dp] at a worker's first row: the incoming state (address, or 0) and what `before` workers added."""
    clear(sums, H * Dp)
    if given != 0:
        state = pointer(given, FLOAT64) + s * H * D
        for h in range(H):
            for d in range(D):
                put(sums, h * Dp + d, get(state, h * D + d))
    for worker in range(before):
        part = parts + words * worker
        for h in range(H):
            for i in range(h * Dp, (h + 1) * Dp):
                put(sums, i, get(sums, i) * get(part, factors + h) + get(part, slot + i))


@device
def hand_over(sums, result, H, D, Dp):
    """The sums behind the last row, as the outgoing state."""
    for h in range(H):
        for d in range(D):
            put(result, h * D + d, get(sums, h * Dp + d))


@device
def first_sums(target, energy, moment, mass, s, H, D):
    """The incoming state (addresses, or 0) laid out like the saved ones."""
    C = H * D
    for i in range(C):
        put(target, i, 0.0 if energy == 0 else get(pointer(energy, FLOAT64), s * C + i))
        put(target, C + i, 0.0 if moment == 0 else get(pointer(moment, FLOAT64), s * C + i))
    for h in range(H):
        put(target, 2 * C + h, 0.0 if mass == 0 else get(pointer(mass, FLOAT64), s * H + h))


@device
def take_back(sums, sign, end, s, H, D, Dp, parts, words, factors, slot, worker, members):
    """The gradient's sums [H, Dp] behind a worker's last row: the outgoing state's (address or 0), later workers'."""
    clear(sums, H * Dp)
    if end != 0:
        cotangent = pointer(end, FLOAT64) + s * H * D
        for h in range(H):
            for d in range(D):
                put(sums, h * Dp + d, sign * get(cotangent, h * D + d))
    for later in range(members - 1, worker, -1):
        part = parts + words * later
        for h in range(H):
            for i in range(h * Dp, (h + 1) * Dp):
                put(sums, i, get(sums, i) * get(part, factors + h) + get(part, slot + i))


@device
def give_back(sums, sign, result, s, H, D, Dp):
    """The gradient to the incoming state, if there was one."""
    if result != 0:
        for h in range(H):
            for d in range(D):
                put(pointer(result, FLOAT64), (s * H + h) * D + d, sign * get(sums, h * Dp + d))


@device
def give_mass_back(B, result, s, H, Dp):
    """-sum_d B, the lanes of B being parts of one number."""
    if result != 0:
        for h in range(H):
            part = 0.0
            for d in range(Dp):
                part -= get(B, h * Dp + d)
            put(pointer(result, FLOAT64), s * H + h, part)


@device
def give_sums(parts, words, members, dt_at, apart, decay, dt, d_decay, s, H):
    """Gradients to temperature [H] and decay (address or 0) [H]; the sums decay multiplied carry one factor of it."""
    for h in range(H):
        scores, changes = 0.0, 0.0
        for member in range(members):
            scores += get(parts, words * member + dt_at + h)
            changes += get(parts, words * member + dt_at + apart + h)
        put(dt, h, scores)
        if d_decay != 0:
            put(pointer(d_decay, FLOAT64), s * H + h, changes / get(decay, h))
