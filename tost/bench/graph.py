"""A step of decoding that advances in place, so that a CUDA graph can hold it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.bench.gate import Check, relative_error
from tost.bench.measure import Call
from tost.models.language.cache import state_layers
from tost.nn.states import state_tensors

STEPS = 4  # compared
TOLERANCE = 1e-6  # of the largest entry of a state: the same kernels ran


def static_step(model: Any, cache: Any, token: Tensor) -> Call:
    """Greedy decoding of one more token [1, 1]; states and token keep their places in memory."""
    layers = state_layers(cache)

    def step() -> None:
        before = [layer.state for layer in layers]
        chosen = model(token, past_key_values=cache).logits[:, -1:].argmax(-1)
        for layer, old in zip(layers, before):
            for place, value in zip(state_tensors(old).values(), state_tensors(layer.state).values()):
                place.copy_(value)
            layer.state = old
        token.copy_(chosen)

    return step


def graph_step(model: Any, cache: Any, token: Tensor) -> Call:
    """`static_step` as a CUDA graph: no Python and one launch for each token."""
    step = static_step(model, cache, token)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def check_steps(one: tuple[Call, Any], other: tuple[Call, Any], what: str) -> Check:
    """That two steps leave the same states; each is (step, cache), and both caches hold the same now."""
    for _ in range(STEPS):
        one[0](), other[0]()
    error = 0.0
    for a, b in zip(state_layers(one[1]), state_layers(other[1])):
        pairs = zip(state_tensors(a.state).values(), state_tensors(b.state).values())
        error = max([error, *(relative_error(x, y.double()) for x, y in pairs)])
    return Check(what, error, TOLERANCE)
