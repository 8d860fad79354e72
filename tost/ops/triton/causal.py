"""The causal operator on a GPU, forward.

Two running sums follow one another: energies, which give the memberships, then moments, which give the output. Cut into
tiles of tokens that is a scan in two levels: each tile's sum, a scan over the tiles in float64 (scan.py), then the tile
again with what enters it. w is read three times and y written once, 4 |w| bytes, and 2/T of w in float32 for the sums
between tiles of T tokens, which the backward pass needs anyway. (One look-back chain through all tiles would read w
once, but a chip's registers hold few tokens of all heads: 16 bytes of state by feature between such tiles would cost
more than it spares.) Where sequences alone fill the chip, or are short, as when decoding, one program takes each
sequence from its first token to its last: 2 |w| bytes, one launch.

Inside a tile sums are float32 (float64 for float64 input) and start from zero; what enters is float64 until added.
Nothing is atomic, so results repeat bit for bit. Gradients: causal_backward.py.
"""

# B batch, N tokens, H heads, D features per head, C = H*D, S sequences (or packed ones), P tiles, T tokens a tile

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS, statistics_dtype
from tost.ops.triton import settings
from tost.ops.triton.blocks import gates, head_block, lane_block, load_token, real_rows, running, softmax_heads, spread
from tost.ops.triton.scan import scan
from tost.ops.triton.tiles import on_device, tile_at, tile_count, tile_range, tiles_of

FLOOR: tl.constexpr = tl.constexpr(CAUSAL_FLOOR)
EPS: tl.constexpr = tl.constexpr(MASS_EPS)
KEPT = 64  # tokens between the sums kept for the backward pass: with the memberships at most a tenth of w


@triton.jit
def energy_kernel(
    w, mask, rates, energies, counts, table, first, N, D, C, WIDTH,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """energies [P, C of WIDTH]: what a tile adds to the energy after its last token; counts [P]: its tokens."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w += start * C
    if MASKED:
        mask += start
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    WIDE: tl.constexpr = energies.dtype.element_ty
    rows = tl.arange(0, T)
    real = real_rows(rows, 0, count, mask, MASKED)
    here = real[:, None] & (column < C)[None, :]
    x = tl.load(w + rows[:, None] * C + column[None, :], mask=here, other=0.0).to(WIDE)
    x = x * x
    one = real.to(tl.int32)
    if GATED:
        after = tl.cumsum(one, 0, reverse=True) - one
        rate = tl.load(rates + column // D, mask=column < C, other=0.0)
        x = x * tl.exp2(rate[None, :] * after[:, None].to(WIDE))
    tl.store(energies + p.to(tl.int64) * WIDTH + column, tl.sum(x, 0), mask=column < C)
    if tl.program_id(1) == 0:
        tl.store(counts + p, tl.sum(one, 0))


@triton.jit
def membership_kernel(
    w, temperature, bias, decay, mask, energies, membership, moments, table, first, N, H, D, BIAS_ROWS, WIDTH,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """membership [B, N, H], and moments [P, H (D + 1) of WIDTH]: what a tile adds to moment and mass."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w, membership = w + start * H * D, membership + start * H
    if MASKED:
        mask += start
    WIDE: tl.constexpr = membership.dtype.element_ty
    C = H * D
    head = tl.arange(0, HP)
    feature, exists = head_block(H, D, HP, DP)
    t = tl.load(temperature + head, mask=head < H, other=0.0)
    gate = tl.full([HP], 1.0, WIDE)
    if GATED:
        gate = tl.load(decay + head, mask=head < H, other=1.0)
    entered = tl.load(energies + p.to(tl.int64) * WIDTH + feature, mask=exists, other=0.0)
    energy = tl.zeros([HP, DP], WIDE)
    moment = tl.zeros([HP, DP], WIDE)
    mass = tl.zeros([HP], WIDE)
    coming, comes = load_token(w, 0, count, mask, C, feature, exists, MASKED)
    for row in range(0, count):
        x, real = coming.to(WIDE), comes
        coming, comes = load_token(w, row + 1, count, mask, C, feature, exists, MASKED)
        square = x * x
        if GATED:
            l = tl.where(real, gate, 1.0)
            entered, energy = l[:, None] * entered, l[:, None] * energy
            moment, mass = l[:, None] * moment, l * mass
        energy += square
        score = tl.sum(square / tl.maximum(entered + energy, FLOOR), 1)
        if BIASED:
            score += D * tl.load(bias + ((start + row) % BIAS_ROWS) * H + head, mask=head < H, other=0.0)
        pi = tl.where(real, softmax_heads(t * score, head < H, 0), 0.0)
        tl.store(membership + row * H + head, pi, mask=head < H)
        moment += pi[:, None] * square
        mass += pi
    own = moments + p.to(tl.int64) * WIDTH
    wide_feature = tl.arange(0, HP)[:, None] * (D + 1) + tl.arange(0, DP)[None, :]
    tl.store(own + wide_feature, moment, mask=exists)
    tl.store(own + head * (D + 1) + D, mass, mask=head < H)


@triton.jit
def output_kernel(
    w, decay, rates, mask, membership, moments, y, table, first, N, H, D, WIDTH,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """y [B, N, H, D] = -Pi w / (1 + S / (P + eps)), one head of a tile, ROWS tokens at once."""
    p, h = tl.program_id(0), tl.program_id(1)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w, y, membership = w + start * H * D, y + start * H * D, membership + start * H
    if MASKED:
        mask += start
    WIDE: tl.constexpr = membership.dtype.element_ty
    feature, exists = lane_block(D, LANES, EACH)
    own = moments + p.to(tl.int64) * WIDTH + h * (D + 1)
    moment = tl.load(own + feature, mask=exists, other=0.0)
    mass = tl.load(own + D)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        place = ((rows * H + h) * D)[:, None, None] + feature[None, :, :]
        x = tl.load(w + place, mask=real[:, None, None] & exists[None, :, :], other=0.0).to(WIDE)
        pi = tl.load(membership + rows * H + h, mask=real, other=0.0)
        gate, through, reach, whole = gates(decay, rates, real, h, WIDE, GATED)
        weighed = pi[:, None, None] * x * x
        masses = running(pi, gate, GATED, False) + through * mass
        m = running(weighed, spread(gate, x), GATED, False) + through[:, None, None] * moment[None, :, :]
        m = m * (1 / (masses + EPS))[:, None, None]
        out = -pi[:, None, None] * x / (1 + m)
        tl.store(y + place, out.to(y.dtype.element_ty), mask=(rows < count)[:, None, None] & exists[None, :, :])
        moment = whole * moment + tl.sum(reach[:, None, None] * weighed, 0)
        mass = whole * mass + tl.sum(reach * pi, 0)


@triton.jit
def sequence_kernel(
    w, temperature, bias, decay, mask, energy_in, moment_in, mass_in,
    y, energy_out, moment_out, mass_out, membership, states, table, first, N, H, D, BIAS_ROWS,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    STATE: tl.constexpr, KEEP: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Everything at once, one program a sequence: y, the outgoing state, and with KEEP what the backward needs."""
    sequence = tl.program_id(0).to(tl.int64)
    tile, last = tile_range(sequence, first, N, T, PACKED)
    WIDE: tl.constexpr = temperature.dtype.element_ty
    C = H * D
    WIDTH = H * (2 * D + 1)
    head = tl.arange(0, HP)
    some = head < H
    feature, exists = head_block(H, D, HP, DP)
    wide_feature = C + tl.arange(0, HP)[:, None] * (D + 1) + tl.arange(0, DP)[None, :]
    t = tl.load(temperature + head, mask=some, other=0.0)
    gate = tl.full([HP], 1.0, WIDE)
    if GATED:
        gate = tl.load(decay + head, mask=some, other=1.0)
    energy_base = tl.zeros([HP, DP], tl.float64)
    moment_base = tl.zeros([HP, DP], tl.float64)
    mass_base = tl.zeros([HP], tl.float64)
    if STATE:
        energy_base += tl.load(energy_in + sequence * C + feature, mask=exists, other=0.0)
        moment_base += tl.load(moment_in + sequence * C + feature, mask=exists, other=0.0)
        mass_base += tl.load(mass_in + sequence * H + head, mask=some, other=0.0)
    while tile < last:
        _, start, count = tile_at(tile, table, N, T, PACKED)
        tokens, outputs, memberships, masks = w + start * C, y + start * C, membership, mask
        if KEEP:
            memberships += start * H
        if MASKED:
            masks += start
        kept = tl.full([HP], 1.0, tl.float64)
        entered, moment_entered, mass_entered = energy_base.to(WIDE), moment_base.to(WIDE), mass_base.to(WIDE)
        if KEEP:
            tl.store(states + tile * WIDTH + feature, entered, mask=exists)
            tl.store(states + tile * WIDTH + wide_feature, moment_entered, mask=exists)
            tl.store(states + tile * WIDTH + C + head * (D + 1) + D, mass_entered, mask=some)
        energy = tl.zeros([HP, DP], WIDE)
        moment = tl.zeros([HP, DP], WIDE)
        mass = tl.zeros([HP], WIDE)
        coming, comes = load_token(tokens, 0, count, masks, C, feature, exists, MASKED)
        for row in range(0, count):
            x, real = coming.to(WIDE), comes
            coming, comes = load_token(tokens, row + 1, count, masks, C, feature, exists, MASKED)
            square = x * x
            if GATED:
                l = tl.where(real, gate, 1.0)
                kept = kept * l.to(tl.float64)
                entered, energy = l[:, None] * entered, l[:, None] * energy
                moment_entered, moment = l[:, None] * moment_entered, l[:, None] * moment
                mass_entered, mass = l * mass_entered, l * mass
            energy += square
            score = tl.sum(square / tl.maximum(entered + energy, FLOOR), 1)
            if BIASED:
                score += D * tl.load(bias + ((start + row) % BIAS_ROWS) * H + head, mask=some, other=0.0)
            pi = tl.where(real, softmax_heads(t * score, some, 0), 0.0)
            if KEEP:
                tl.store(memberships + row * H + head, pi, mask=some)
            moment += pi[:, None] * square
            mass += pi
            m = (moment_entered + moment) / (mass_entered + mass + EPS)[:, None]
            tl.store(outputs + row * C + feature, (-pi[:, None] * x / (1 + m)).to(y.dtype.element_ty), mask=exists)
        energy_base = kept[:, None] * energy_base + energy.to(tl.float64)
        moment_base = kept[:, None] * moment_base + moment.to(tl.float64)
        mass_base = kept * mass_base + mass.to(tl.float64)
        tile += 1
    tl.store(energy_out + sequence * C + feature, energy_base, mask=exists)
    tl.store(moment_out + sequence * C + feature, moment_base, mask=exists)
    tl.store(mass_out + sequence * H + head, mass_base, mask=some)


def causal(
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    energy: Tensor | None,
    moment: Tensor | None,
    mass: Tensor | None,
    keep: bool,
) -> tuple[Tensor, ...]:
    """y, the outgoing energy, moment, mass, and if `keep` memberships and the sums between tiles, for the gradient."""
    call = Call(w, temperature, bias, decay, mask, cu_seqlens, keep)
    state = [None if part is None else part.to(torch.float64).contiguous() for part in (energy, moment, mass)]
    if not call.tiles.P or not call.tiles.S:
        return call.nothing(state)
    with on_device(w):
        return (_by_sequence if call.by_sequence else _by_tile)(call, state)


class Call:
    """A call's tensors as the kernels take them."""

    def __init__(
        self,
        w: Tensor,
        temperature: Tensor,
        bias: Tensor | None,
        decay: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        keep: bool,
    ) -> None:
        B, N, H, D = w.shape
        self.wide = statistics_dtype(w.dtype)
        self.w, self.mask = w.contiguous(), None if mask is None else mask.contiguous()
        self.temperature = temperature.to(self.wide).contiguous()
        self.bias = None if bias is None else bias.to(self.wide).contiguous()
        self.decay = None if decay is None else decay.to(self.wide).contiguous()
        self.keep, self.shape = keep, {"H": H, "D": D}
        self.by_sequence, T = settings.causal(w, cu_seqlens, KEPT if keep else None)
        self.tiles = tiles_of(w, cu_seqlens, T)
        self.flags = {"MASKED": mask is not None, "GATED": decay is not None}
        self.biased = {"BIASED": bias is not None, "BIAS_ROWS": 1 if bias is None else max(1, bias.shape[0] * N)}

    @property
    def rates(self) -> Tensor | None:
        """[H], logarithms of the decay to the base 2. A kernel's own logarithm is coarse near 1, where it counts."""
        return None if self.decay is None else self.decay.double().log2().to(self.wide)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.w.new_empty(shape, dtype=dtype or self.wide)

    def nothing(self, state: list[Tensor | None]) -> tuple[Tensor, ...]:
        """The results without a token, or without a sequence."""
        H, D, S = self.w.shape[2], self.w.shape[3], self.tiles.S
        shapes = (S, H, D), (S, H, D), (S, H)
        ends = [self.w.new_zeros(s, dtype=torch.float64) if p is None else p.clone() for s, p in zip(shapes, state)]
        kept = self.w.shape[:3] if self.keep else (0,)
        rows = (self.tiles.P, H * (2 * D + 1)) if self.keep else (0,)
        return torch.empty_like(self.w), *ends, self.empty(*kept), self.w.new_zeros(rows, dtype=self.wide)


def _by_sequence(call: Call, state: list[Tensor | None]) -> tuple[Tensor, ...]:
    w, tiles = call.w, call.tiles
    B, N, H, D = w.shape
    y, double = torch.empty_like(w), torch.float64
    ends = [call.empty(tiles.S, H, D, dtype=double) for _ in range(2)] + [call.empty(tiles.S, H, dtype=double)]
    membership = call.empty(*((B, N, H) if call.keep else (0,)))
    states = call.empty(*((tiles.P, H * (2 * D + 1)) if call.keep else (0,)))
    sequence_kernel[tiles.S,](
        w, call.temperature, call.bias, call.decay, call.mask, *state, y, *ends, membership, states,
        STATE=state[0] is not None, KEEP=call.keep, **call.shape, **tiles.arguments, **call.flags, **call.biased,
        **settings.token("causal sequence", w),
    )  # fmt: skip
    return y, *ends, membership, states


def _by_tile(call: Call, state: list[Tensor | None]) -> tuple[Tensor, ...]:
    w, tiles, rates = call.w, call.tiles, call.rates
    B, N, H, D = w.shape
    C, WIDTH, double = H * D, H * (2 * D + 1), torch.float64
    found, states = call.empty(tiles.P, WIDTH), call.empty(tiles.P, WIDTH)
    counts = call.empty(tiles.P, dtype=torch.int32)
    y, membership = torch.empty_like(w), call.empty(B, N, H)
    energy, sums = call.empty(tiles.S, H, D, dtype=double), call.empty(tiles.S, H, D + 1, dtype=double)
    shared = {**tiles.arguments, **call.flags, "WIDTH": WIDTH, "D": D}
    columns, grid = settings.tile_columns("causal energy", w, tiles)
    energy_kernel[grid](w, call.mask, rates, found, counts, C=C, **shared, **columns)
    scan(found, states, state[0], energy, tiles, counts, rates, D)
    membership_kernel[tiles.P,](
        w, call.temperature, call.bias, call.decay, call.mask, states, membership, found[:, C:],
        H=H, **shared, **call.biased, **settings.token("causal membership", w),
    )  # fmt: skip
    moment, mass = state[1:]
    entry = None if moment is None or mass is None else torch.cat([moment, mass.unsqueeze(-1)], -1)
    scan(found[:, C:], states[:, C:], entry, sums, tiles, counts, rates, D + 1)
    output_kernel[tiles.P, H](
        w, call.decay, rates, call.mask, membership, states[:, C:], y,
        H=H, **shared, **settings.lanes("causal output", w, tiles),
    )  # fmt: skip
    ends = energy, sums[..., :D].clone(memory_format=torch.contiguous_format), sums[..., D].clone()
    if call.keep:
        return y, *ends, membership, states
    return y, *ends, call.empty(0), call.empty(0)


def state_rows(w: Tensor, cu_seqlens: Tensor | None) -> int:
    """Rows of the kept sums between tiles."""
    return tile_count(w, cu_seqlens, KEPT)
