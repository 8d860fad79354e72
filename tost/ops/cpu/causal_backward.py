"""The causal operator's backward pass: one pass over w and g, from the last chunk of rows to the first.

The sums of the forward pass are known at the start of every chunk. Within it they are run forward to the start of each
block, then, from the last block to the first, within the block; the gradients' own sums A, B and E run backwards, like
the forward's from zero within a chunk, on top of float64 ones. Splitting f / c - E into f (c - p) / c^2 - (E behind the
token) spares the first tokens a cancellation.

Shared sequences: workers sum A and B over their rows, then everything but the part of E that comes from behind their
rows, which enters dw linearly and is subtracted last.
"""

# S sequences, R rows = tokens of all sequences, H heads, D features per head, C = H*D, P = H * (D padded to vectors)

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from tost.ops.cpu.blocks import (
    BLOCK,
    FLOAT64,
    INT64,
    NOTHING,
    ONE,
    OWN,
    SCRATCH,
    WORDS,
    add_to,
    clear,
    clear_rows,
    device,
    first_row,
    gather_head,
    layer,
    padded,
    real_rows,
)
from tost.ops.cpu.causal import EVERYTHING, advance_mass, decay_powers
from tost.ops.cpu.causal_gradients import (
    advance_sums,
    energy_gradients,
    moment_gradients,
    powers_behind,
    score_gradients,
)
from tost.ops.cpu.simd import (
    LANES,
    get,
    load,
    pointer,
    put,
    read,
    spread,
    store,
    widen,
    write,
    zero,
)
from tost.ops.cpu.states import first_sums, give_back, give_mass_back, give_sums, take_back

BACKWARD_PASSES = np.int64(4)


@device
def recall_chunk(low, high, saved, tensors, sizes, decay, edges, survive, mass, chunk_parts):
    """The forward pass's sums from a chunk's edge to the start of every block, and each row's membership and mass."""
    w, mask, membership = tensors[0], tensors[2], tensors[3]
    H, D = sizes[0], sizes[1]
    start_a, start_S = edges
    rows, counts, forth, pi, Q, runs_a, runs_S, x = chunk_parts
    Dp, C, lanes = padded(D), H * D, H * LANES
    P = H * Dp
    for h in range(H):
        for d in range(D):
            put(start_a, h * Dp + d, get(saved, h * D + d))
            put(start_S, h * Dp + d, get(saved, C + h * D + d))
        put(mass, h, get(saved, 2 * C + h))
        put(survive, h, 1.0)
    clear(runs_a, P)
    clear(runs_S, P)
    for block in range((high - low + BLOCK - 1) // BLOCK):
        first = low + block * BLOCK
        here = rows + block * BLOCK
        count = real_rows(mask, first, min(first + BLOCK, high), here)
        put(counts, block, count)
        for k in range(count):
            for h in range(H):
                put(pi, block * lanes + h * LANES + k, get(membership, get(here, k) * H + h))
        decay_powers(decay, survive, forth + block * lanes, count, H)
        advance_mass(mass, decay, pi + block * lanes, Q + block * lanes, count, H)
        for h in range(H):  # meanwhile ask for the cotangents of these rows
            gather_head(w, tensors[1], here, count, h, H, D, x + (block * H + h) * BLOCK * Dp)
        if first + BLOCK < high:
            next_a, next_S = runs_a + (block + 1) * P, runs_S + (block + 1) * P
            for i in range(0, P, LANES):
                store(next_a, i, load(runs_a, block * P + i))
                store(next_S, i, load(runs_S, block * P + i))
            advance_sums(x + block * P * BLOCK, count, H, Dp, decay, pi + block * lanes, next_a, next_S)


@device
def retreat(sums, edge, run, decay, survive, H, Dp):
    """sums <- decay^tokens sums + decay run: as they reach the last row of the chunk before; a new run begins."""
    for h in range(H):
        for i in range(h * Dp, (h + 1) * Dp, LANES):
            new = load(sums, i) * get(survive, h) + widen(load(run, i) * get(decay, h))
            store(sums, i, new)
            store(edge, i, new)
            store(run, i, spread(0.0, get(decay, h)))


@layer
def backward_rows(number, origin, start, stop, first_state, tensors, sizes, sums, floats, chunk_parts):
    """One pass (or EVERYTHING) over rows start..stop of a sequence, from behind them to before them."""
    w, g, mask, membership, states, temperature, bias, d_bias, dw = tensors
    H, D, bias_rows, chunk, decaying = sizes
    A, B, E, mass, survive, factors, dt, d_decay = sums
    decay, start_a, start_S, edge_A, run_A, edge_B, run_B, edge_E, run_E, back, u, e, work, direct = floats
    rows, counts, forth, pi, Q, runs_a, runs_S, x = chunk_parts
    Dp, C, lanes = padded(D), H * D, H * LANES
    P = H * Dp
    for h in range(H):  # the gradients' sums as they are, in the statistics' type
        put(survive, h, 1.0)
    clear(run_A, P)
    clear(run_B, P)
    clear(run_E, P)
    retreat(A, edge_A, run_A, decay, survive, H, Dp)
    retreat(B, edge_B, run_B, decay, survive, H, Dp)
    retreat(E, edge_E, run_E, decay, survive, H, Dp)
    for index in range((stop - start + chunk - 1) // chunk - 1, -1, -1):
        low = start + index * chunk
        high = min(low + chunk, stop)
        saved = first_state
        if low > origin:
            saved = states + (origin // chunk + (low - origin) // chunk - 1) * (2 * C + H)
        recall_chunk(low, high, saved, tensors, sizes, decay, (start_a, start_S), survive, mass, chunk_parts)
        for h in range(H):
            put(survive, h, 1.0)
        for block in range((high - low + BLOCK - 1) // BLOCK - 1, -1, -1):
            count, here, at = get(counts, block), rows + block * BLOCK, block * lanes
            powers_behind(decay, survive, back, count, H)
            moment_gradients(
                x + block * P * BLOCK,
                g,
                dw,
                here,
                count,
                H,
                D,
                decay,
                forth + at,
                back,
                pi + at,
                Q + at,
                (start_S, runs_S + block * P),
                (edge_A, run_A),
                (edge_B, run_B),
                u,
                direct,
                work,
                decaying,
                d_decay,
            )
            if number == 0:
                continue
            score_gradients(u, e, pi + at, temperature, H)
            if bias_rows > 0:
                for k in range(count):
                    for h in range(H):
                        row, slope = get(here, k), get(e, h * LANES + k)
                        add_to(dt, h, D * slope * get(bias, row % bias_rows * H + h))
                        put(d_bias, row * H + h, D * get(u, h * LANES + k))
            energy_gradients(
                x + block * P * BLOCK,
                w + -chunk * C,
                here,
                count,
                H,
                D,
                decay,
                forth + at,
                back,
                e,
                u,
                (start_a, runs_a + block * P),
                (edge_E, run_E),
                direct,
                work,
                dw,
                dt,
                decaying,
                d_decay,
            )
            first, last = low + block * BLOCK, min(low + (block + 1) * BLOCK, high)
            if count < last - first:
                clear_rows(dw, mask, first, last, C, get(decay, 0))
                if bias_rows > 0:
                    clear_rows(d_bias, mask, first, last, H, get(decay, 0))
        retreat(A, edge_A, run_A, decay, survive, H, Dp)
        retreat(B, edge_B, run_B, decay, survive, H, Dp)
        retreat(E, edge_E, run_E, decay, survive, H, Dp)
        for h in range(H):
            put(factors, h, get(factors, h) * get(survive, h))


@device
def subtract_behind(w, mask, start, stop, H, D, decay, E, survive, powers, rows, dw):
    """dw -= 2 w decay^k E, where E comes from behind the rows and k counts the tokens between."""
    C, Dp = H * D, padded(D)
    for h in range(H):
        put(survive, h, 1.0)
    for block in range((stop - start + BLOCK - 1) // BLOCK - 1, -1, -1):
        low = start + block * BLOCK
        count = real_rows(mask, low, min(low + BLOCK, stop), rows)
        powers_behind(decay, survive, powers, count, H)
        for k in range(count):
            for h in range(H):
                power = get(powers, h * LANES + k) * 2
                for c in range(0, D, LANES):
                    i = get(rows, k) * C + h * D + c
                    less = read(w, i, D - c) * load(E, h * Dp + c) * power
                    write(dw, i, read(dw, i, D - c) - less, D - c)


@register_jitable
def backward_words(H, D, chunk):
    """float64 slots of scratch for one worker."""
    P, lanes, blocks = H * padded(D), H * LANES, chunk // BLOCK
    sums = 6 * P + 5 * padded(H)
    floats = padded(H) + 8 * P + 3 * lanes + (3 * LANES + padded(D)) * BLOCK + LANES + BLOCK * P + padded(2 * H * D + H)
    return sums + floats + blocks * (BLOCK + 3 * lanes + (2 + BLOCK) * P) + padded(blocks)


def backward(storage):
    """The kernel for w stored as `storage`, a tag and the version of the source, says.

    Its numbers: H, D, bias_rows, chunk, addresses of w, g [R, H, D], temperature [H], mask [R] (or 0),
    bias [bias_rows, H], decay [H] (or 0), the incoming float64 state energy, moment, mass (or 0), membership and states
    as the forward pass left them, cotangents of the outgoing state (or 0), dw [R, H, D], dt [S, H] float64,
    d_bias [R, H], d_decay [S, H] float64 (or 0), gradients to the incoming state (or 0).
    """

    def kernel(address, number, s, start, stop, worker, group, members):
        call, tag = pointer(address, INT64), storage[0]
        H, D, chunk, mask, decays = (
            get(call, OWN),
            get(call, OWN + 1),
            get(call, OWN + 3),
            get(call, OWN + 7),
            get(call, OWN + 9),
        )
        one, decaying = zero(tag), get(call, OWN + 21) != 0
        sizes = (H, D, get(call, OWN + 2), chunk, decaying)
        w, dw, temperature = (
            pointer(get(call, OWN + 4), tag),
            pointer(get(call, OWN + 18), tag),
            pointer(get(call, OWN + 6), one),
        )
        tensors = (
            w,
            pointer(get(call, OWN + 5), tag),
            mask,
            pointer(get(call, OWN + 13), one),
            pointer(get(call, OWN + 14), one),
            temperature,
            pointer(get(call, OWN + 8), one),
            pointer(get(call, OWN + 20), one),
            dw,
        )
        Dp, Hp, words, scratch = padded(D), padded(H), get(call, WORDS), get(call, SCRATCH)
        P, lanes, blocks = H * Dp, H * LANES, chunk // BLOCK
        parts = pointer(scratch + 8 * words * group, FLOAT64)  # of every worker: A, B, E, decay^tokens, dt, d_decay
        part = pointer(scratch + 8 * words * worker, FLOAT64)
        factors = part + 3 * P
        dt, d_decay, own = factors + Hp, factors + 2 * Hp, factors + 3 * Hp
        mass, survive = own + 3 * P, own + 3 * P + Hp
        decay = pointer(scratch + 8 * (words * worker + 6 * P + 5 * Hp), one)
        edges = decay + Hp
        back = edges + 8 * P
        work = back + 3 * lanes
        direct = work + (3 * LANES + Dp) * BLOCK + LANES
        first_state = direct + BLOCK * P
        forth = first_state + padded(2 * H * D + H)
        floats = (
            decay,
            edges,
            edges + P,
            edges + 2 * P,
            edges + 3 * P,
            edges + 4 * P,
            edges + 5 * P,
            edges + 6 * P,
            edges + 7 * P,
            back,
            back + lanes,
            back + 2 * lanes,
            work,
            direct,
        )
        rows = pointer(scratch + 8 * (words * (worker + 1) - blocks * BLOCK - padded(blocks)), INT64)
        chunk_parts = (
            rows,
            rows + blocks * BLOCK,
            forth,
            forth + blocks * lanes,
            forth + 2 * blocks * lanes,
            forth + 3 * blocks * lanes,
            forth + 3 * blocks * lanes + blocks * P,
            forth + 3 * blocks * lanes + 2 * blocks * P,
        )
        for h in range(H):
            put(decay, h, 1.0 if decays == 0 else get(pointer(decays, one), h))
            if number == 0:
                put(factors, h, 1.0)
        clear(edges, 8 * P)  # the lanes that pad heads, too
        first_sums(first_state, get(call, OWN + 10), get(call, OWN + 11), get(call, OWN + 12), s, H, D)

        me, alone = worker - group, number == EVERYTHING
        last = me == members - 1
        A, B, E, product = own, own + P, own + 2 * P, survive
        if number == 0:
            clear(part, 3 * P)
            A, B, E, product = part, part + P, part + 2 * P, factors
        elif number < 3:  # before pass 2, the energy's gradient behind the rows is known to the last worker only
            end = get(call, OWN + 15) if last else NOTHING
            take_back(E, -1.0, end, s, H, D, Dp, parts, words, 3 * P, 2 * P, me, members if number == 2 else me + 1)
            take_back(A, 1.0, get(call, OWN + 16), s, H, D, Dp, parts, words, 3 * P, NOTHING, me, members)
            take_back(B, -1.0, get(call, OWN + 17), s, H, ONE, Dp, parts, words, 3 * P, P, me, members)
        if number < 2 or (number == 2 and decaying):  # the decay's gradient needs E in full at every token
            if number != 0:
                clear(dt, 2 * Hp)
            sums = (A, B, E, mass, survive, product, dt, d_decay)
            backward_rows(
                number, first_row(call, s), start, stop, first_state, tensors, sizes, sums, floats, chunk_parts
            )
        elif number == 2:
            if not last:
                for i in range(0, P, LANES):
                    store(edges, i, load(E, i))
                subtract_behind(w, mask, start, stop, H, D, decay, edges, survive, back, rows, dw)
            for h in range(H):
                for i in range(h * Dp, (h + 1) * Dp):
                    put(E, i, get(E, i) * get(factors, h) + get(part, 2 * P + i))
        if number == 1:
            for i in range(P):
                put(part, 2 * P + i, get(E, i))
        if me == 0 and (number == 1 or alone):
            give_back(A, 1.0, get(call, OWN + 23), s, H, D, Dp)
            give_mass_back(B, get(call, OWN + 24), s, H, Dp)
        if me == 0 and (number == 2 or alone):
            give_back(E, -1.0, get(call, OWN + 22), s, H, D, Dp)
        if me == 0 and (number == 3 or alone):
            give_sums(
                parts,
                words,
                members,
                3 * P + Hp,
                Hp,
                decay,
                pointer(get(call, OWN + 19), FLOAT64) + s * H,
                get(call, OWN + 21),
                s,
                H,
            )

    return kernel
