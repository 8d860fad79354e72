"""The causal operator's gradients within a block of rows: sums forth, then the gradients' own sums back."""

# H heads, D features per head, Dp = D padded to whole vectors, P = H*Dp

from __future__ import annotations

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.cpu.blocks import BLOCK, add_to, device, gather_head, padded
from tost.ops.cpu.simd import (
    LANES,
    at_least,
    fused,
    get,
    larger,
    load,
    prefetch,
    put,
    spread,
    store,
    total,
    write,
)


@device
def powers_behind(decay, survive, powers, count, H):
    """powers [H, BLOCK] = decay^(tokens of the chunk behind this one); `survive` [H] goes on from block to block."""
    for h in range(H):
        for k in range(count - 1, -1, -1):
            put(powers, h * LANES + k, get(survive, h))
            put(survive, h, get(survive, h) * get(decay, h))


@device
def advance_sums(x, count, H, Dp, decay, pi, a_sums, S_sums):
    """a <- decay a + w^2 and S <- decay S + Pi w^2, row by row."""
    for h in range(H):
        l = get(decay, h)
        for c in range(0, Dp, LANES):
            a, S = load(a_sums, h * Dp + c), load(S_sums, h * Dp + c)
            for k in range(count):
                value = load(x, (h * BLOCK + k) * Dp + c)
                p = value * value
                a = fused(a, l, p)
                S = fused(S, l, p * get(pi, h * LANES + k))
            store(a_sums, h * Dp + c, a)
            store(S_sums, h * Dp + c, S)


@device
def moment_gradients(
    x, g, dw, rows, count, H, D, decay, forth, back, pi, Q, S, A, B, u, direct, work, decaying, d_decay
):
    """A, B run back over the block; u [H, BLOCK] = sum_d (A p - q w g - B); direct [H, BLOCK, Dp] = Pi (2 A w - q g).

    S, A and B are pairs: the sums at the chunk's edge and the run within the chunk.
    """
    Dp = padded(D)
    gates, kept, parts = work, work + BLOCK * LANES, work + 2 * BLOCK * LANES
    g_head = work + 3 * BLOCK * LANES
    ratio = g_head + BLOCK * Dp
    for h in range(H):
        gather_head(g, dw, rows, count, h, H, D, g_head)
        l, at = get(decay, h), h * LANES
        changes = spread(0.0, l)
        store(ratio, 0, load(pi, at) / load(Q, at))
        for c in range(0, Dp, LANES):
            j = h * Dp + c
            start, run = load(S[0], j), load(S[1], j)
            for k in range(count):
                value = load(x, (h * BLOCK + k) * Dp + c)
                before = fused(run, l, start * get(forth, at + k))
                p = value * value * get(pi, at + k)
                run = fused(run, l, p)
                mass_here = get(Q, at + k)
                store(gates, k * LANES, spread(mass_here, l) / (before + p + mass_here))
                store(kept, k * LANES, before)
            A_edge, A_run, B_edge, B_run = load(A[0], j), load(A[1], j), load(B[0], j), load(B[1], j)
            for k in range(count - 1, -1, -1):
                value, cotangent, q = (
                    load(x, (h * BLOCK + k) * Dp + c),
                    load(g_head, k * Dp + c),
                    load(gates, k * LANES),
                )
                share, behind = get(pi, at + k), get(back, at + k)
                pulled = q * value * cotangent
                M = pulled * get(ratio, k)
                B_run = fused(B_run, l, M - M * q)
                A_run = fused(A_run, l, M * q)
                a, b = A_edge * behind + A_run, B_edge * behind + B_run
                part = a * value * value - pulled - b
                if c > 0:
                    part = part + load(parts, k * LANES)
                store(parts, k * LANES, part)
                store(direct, (h * BLOCK + k) * Dp + c, (a * value * 2.0 - q * cotangent) * share)
                if decaying:
                    kept_mass = get(Q, at + k) - share - MASS_EPS
                    changes = changes + a * load(kept, k * LANES) - b * kept_mass
            store(A[1], j, A_run)
            store(B[1], j, B_run)
        for k in range(count):
            put(u, at + k, total(load(parts, k * LANES)))
        if decaying:
            add_to(d_decay, h, total(changes))


@device
def score_gradients(u, e, pi, temperature, H):
    """e [H, BLOCK] = Pi (u - sum_h Pi u), and u becomes f = temperature e."""
    mean = load(pi, 0) * load(u, 0)
    for h in range(1, H):
        mean = mean + load(pi, h * LANES) * load(u, h * LANES)
    for h in range(H):
        part = load(pi, h * LANES) * (load(u, h * LANES) - mean)
        store(e, h * LANES, part)
        store(u, h * LANES, part * get(temperature, h))


@device
def energy_gradients(
    x, soon, rows, count, H, D, decay, forth, back, e, f, a, E, direct, work, dw, dt, decaying, d_decay
):
    """E runs back over the block; dw = direct + 2 w (f / c - E); dt [H] += sum e p / c.

    a and E are pairs: the sums at the chunk's edge and the run within the chunk.
    """
    Dp, C = padded(D), H * D
    own, added, kept = work, work + BLOCK * LANES, work + 2 * BLOCK * LANES
    floor = spread(CAUSAL_FLOOR, get(decay, 0))
    for h in range(H):
        l = get(decay, h)
        changes, scores = spread(0.0, l), spread(0.0, l)
        for c in range(0, D, LANES):
            j = h * Dp + c
            start, run = load(a[0], j), load(a[1], j)
            for k in range(count):
                value = load(x, (h * BLOCK + k) * Dp + c)
                p = value * value
                before = fused(run, l, start * get(forth, h * LANES + k))
                run = fused(run, l, p)
                energy = before + p
                inverse = spread(1.0, l) / larger(energy, floor)
                ratio = p * inverse
                scores = scores + ratio * get(e, h * LANES + k)
                # below the floor the energy is constant: no gradient through it
                store(own, k * LANES, inverse * at_least(energy, CAUSAL_FLOOR, before * inverse, 1.0))
                store(added, k * LANES, at_least(energy, CAUSAL_FLOOR, ratio * inverse, 0.0))
                store(kept, k * LANES, before)
            edge, run = load(E[0], j), load(E[1], j)
            for k in range(count - 1, -1, -1):
                i, slope = get(rows, k) * C + h * D + c, get(f, h * LANES + k)
                prefetch(soon, i)
                behind = fused(run, l, edge * get(back, h * LANES + k))
                more = load(added, k * LANES) * slope
                through = load(own, k * LANES) * slope - behind
                write(
                    dw,
                    i,
                    load(direct, (h * BLOCK + k) * Dp + c) + load(x, (h * BLOCK + k) * Dp + c) * through * 2.0,
                    D - c,
                )
                run = fused(run, l, more)
                if decaying:
                    changes = changes - (behind + more) * load(kept, k * LANES)
            store(E[1], j, run)
        add_to(dt, h, total(scores))
        if decaying:
            add_to(d_decay, h, total(changes))
