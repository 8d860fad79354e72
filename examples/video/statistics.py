"""Token statistics that are carried from frame to frame: two forms, one state of H(2D + 1) numbers a layer."""

# B streams, N tokens of a frame, H heads, D features per head, C = H*D

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tost.nn import TSSA
from tost.ops import TSSAState, causal_membership, causal_tssa


def frame_tssa(
    w: Tensor, temperature: Tensor, decay: float = 0.0, trained_on: int | None = None, state: TSSAState | None = None
) -> tuple[Tensor, Tensor, TSSAState]:
    """Full TSSA within a frame, whose statistics go on from earlier frames by a momentum l = decay.

        a = l a' + sum_n w_n^2            pi_nh = softmax_h(t_h * g * sum_d w_nhd^2 / a_hd)        ' = the frame before
        P = l P' + sum_n pi_n             S = l S' + sum_n pi_n w_n^2
        y_nh = -pi_nh * w_nh / (1 + S_h / P_h)

    w: [B, N, H, D].  temperature: [H].  decay 0: tssa of each frame alone; 1: nothing is forgotten.
    trained_on: g = (tokens that the statistics hold) / trained_on keeps the memberships as sharp as in training, where
    an image had that many tokens (logits go down as 1 / tokens); None: g = 1.
    Returns y [B, N, H, D], pi [B, N, H], and the state, whose sums are float64.
    """
    B, N, H, D = w.shape
    if state is None:
        state = TSSAState.zeros(B, H, D, device=w.device)
    power = w * w
    energy = decay * state.energy + power.sum(1).double()
    held = decay * state.mass.sum(-1) + N  # memberships of a token sum to 1, so masses count tokens
    logits = torch.einsum("bnhd,bhd->bnh", power, energy.clamp_min(1e-24).reciprocal().to(w.dtype))
    grown = 1.0 if trained_on is None else (held / trained_on).to(w.dtype)[:, None, None]
    pi = (logits * temperature * grown).softmax(-1)
    mass = decay * state.mass + pi.sum(1).double()
    moment = decay * state.moment + torch.einsum("bnh,bnhd->bhd", pi, power).double()
    gate = -1 / (1 + moment / (mass + 1e-8)[..., None])
    y = w * pi[..., None] * gate.to(w.dtype)[:, None]
    return y, pi, TSSAState(energy, moment, mass, state.length + N)


class FrameStatistics(nn.Module):
    """A trained TSSA layer as a stream of frames: x [1, N, C] -> [1, N, C] by frame_tssa, its state kept here."""

    def __init__(self, layer: TSSA, half_life: float, trained_on: int | None) -> None:
        super().__init__()
        self.layer, self.trained_on = layer, trained_on
        self.decay = 2 ** (-1 / half_life) if half_life > 0 else 0.0
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.state: TSSAState | None = None
        self.pi: Tensor | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        w = self.layer.project(x)
        y, self.pi, self.state = frame_tssa(w, self.layer.temperature, self.decay, self.trained_on, self.state)
        return self.layer.out_proj(y.flatten(-2))

    def membership(self) -> Tensor:
        """pi [N, H] of the last frame."""
        assert self.pi is not None
        return self.pi[0]


class TokenStatistics(nn.Module):
    """A trained TSSA layer as a stream of tokens: tost.causal_tssa row by row through the frames, its state kept here.

    A token sees the tokens before it, of its own frame and of earlier ones, the nearer the more.
    """

    def __init__(self, layer: TSSA, half_life: float, trained_on: int | None) -> None:
        super().__init__()
        if half_life <= 0:
            raise ValueError(f"statistics by token need a half-life above 0 frames, got {half_life:g}")
        self.layer, self.half_life, self.trained_on = layer, half_life, trained_on
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.state: TSSAState | None = None
        self.last: dict[str, Any] = {}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.last = {"w": self.layer.project(x), "state": self.state, **self._rates(x.shape[1])}
        y, self.state = causal_tssa(**self.last, return_state=True)
        return self.layer.out_proj(y.flatten(-2))

    def _rates(self, tokens: int) -> dict[str, Tensor]:
        """Decay and temperature for frames of so many tokens; the latter as in frame_tssa, for a long stream."""
        decay = 2 ** (-1 / (self.half_life * tokens))
        held = 1 / (1 - decay) if decay < 1 else tokens  # without decay it grows without end: that of one frame
        temperature = self.layer.temperature * (1.0 if self.trained_on is None else held / self.trained_on)
        return {"decay": torch.full_like(temperature, decay), "temperature": temperature}

    def membership(self) -> Tensor:
        """pi [N, H] of the last frame."""
        return causal_membership(**self.last)[0]
