"""The state of a stream as a cache of transformers: one state a layer, for token statistics of constant size."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, Cache, CacheLayerMixin

from tost.models.language.config import LAYER_TYPE
from tost.nn.states import map_state, state_tensors

AnyCache = TypeVar("AnyCache", bound=Cache)
Mix = Callable[..., Any]  # mix(x, mask=..., state=..., return_state=True) -> (y, state), such as ToSTBlock.mix


class Step(NamedTuple):
    """One call of a layer: what is needed to take back its last tokens."""

    before: Any
    mix: Mix
    x: Tensor
    mask: Tensor | None


class StateLayer(CacheLayerMixin):
    """What one layer remembers; for token statistics H(2D + 1) sums and a count a sequence, for any number of tokens.

    `state` is the state of the layer's mixer, such as a TSSAState (None before the first token); `columns` counts the
    tokens fed, padding included, which is what transformers calls the length of a cache.
    A sum cannot forget its last term. So after `activate_past_recording` (assisted decoding calls it) a layer keeps the
    inputs of its calls, and `crop` goes back to the state before a call and repeats the tokens that stay. `crop` frees
    what was kept: nothing before it can be taken back.
    """

    _layer_type = LAYER_TYPE
    is_croppable = True
    supports_early_init = False  # no shapes to prepare: the first tokens bring them

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.state: Any = None
        self.columns = 0
        self.record_past = False
        self.steps: list[Step] = []

    def advance(self, mix: Mix, x: Tensor, mask: Tensor | None) -> Tensor:
        """mix(x) after all tokens seen so far, and then these are seen too.  x: [B, N, C] -> [B, N, C]."""
        before = self.state
        out, self.state = mix(x, mask=mask, state=before, return_state=True)
        self.columns += x.shape[1]
        self.is_initialized = True
        if self.record_past:
            self.steps.append(Step(before, mix, x, mask))
        return out

    def activate_past_recording(self) -> None:
        """Keep the inputs of the calls from now on, until `crop`."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last -tokens_to_remove tokens (transformers counts them as a negative number), of all rows.

        Raises ValueError if they were not recorded.
        """
        remove, recorded = -tokens_to_remove, sum(step.x.shape[1] for step in self.steps)
        if remove < 0 or remove > recorded:
            raise ValueError(
                f"crop expects minus the number of tokens to take back, {recorded} at most, got {tokens_to_remove}; "
                "call cache.activate_past_recording() before feeding tokens that may be taken back"
            )
        self.columns -= remove
        while remove:
            step = self.steps.pop()
            self.state = step.before
            keep = step.x.shape[1] - remove
            if keep > 0:
                mask = None if step.mask is None else step.mask[:, :keep]
                _, self.state = step.mix(step.x[:, :keep], mask=mask, state=step.before, return_state=True)
            remove = max(-keep, 0)
        self.steps.clear()

    def select(self, indices: Tensor) -> None:
        """Keep sequences `indices` [B'], in that order and as often as they are named."""
        if self.state is not None:
            self.state = map_state(self.state, lambda part: part.index_select(0, indices.to(part.device)))
            self.steps.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.select(torch.arange(self.batch_size).repeat_interleave(repeats))

    @property
    def batch_size(self) -> int:
        """Sequences in the state; AttributeError before the first token, as transformers expects of a fresh layer."""
        if self.state is None:
            raise AttributeError("no tokens yet")
        return len(self.state.length)

    @property
    def nbytes(self) -> int:
        return 0 if self.state is None else sum(part.nbytes for part in state_tensors(self.state).values())

    def get_seq_length(self) -> int:
        return self.columns

    def get_max_length(self) -> int:
        return -1  # no limit

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns + query_length, 0

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def offload(self) -> None:
        pass  # too small to be worth moving

    def prefetch(self) -> None:
        pass

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise ValueError("a StateLayer has no keys and values to prepare")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise ValueError("a StateLayer advances by StateLayer.advance, not by keys and values")

    def __repr__(self) -> str:
        if self.state is None:
            return "StateLayer(empty)"
        return f"StateLayer(batch={self.batch_size}, tokens={self.columns}, {self.nbytes / 1024:.1f} KiB)"


STATIC_LAYER_TYPE_MAPPING[LAYER_TYPE] = StateLayer  # its size never changes, so it may be called a static cache too


def state_layers(cache: Cache, count: int | None = None) -> list[StateLayer]:
    """The layers of a cache. Raises ValueError unless it is a cache of `count` StateLayers."""
    layers = [layer for layer in cache.layers if isinstance(layer, StateLayer)]
    if len(layers) != len(cache.layers) or (count is not None and len(layers) != count):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in cache.layers})) or "no layers"
        raise ValueError(
            f"expected a cache of {'some' if count is None else count} StateLayers, got {len(cache.layers)} ({kinds}); "
            "build it by DynamicCache(config=model.config)"
        )
    return layers


def state_nbytes(cache: Cache) -> int:
    """Bytes of all states in a cache: 8 (H(2D + 1) + 1) a layer of plain token statistics and sequence."""
    return sum(layer.nbytes for layer in state_layers(cache))


def select_state(cache: AnyCache, indices: Tensor | list[int]) -> AnyCache:
    """A cache of sequences `indices` [B'] of `cache`, which stays as it is: forks a state for several continuations.

    Naming a sequence more than once repeats it. Raises ValueError if `cache` is empty or holds no such sequence.
    """
    layers, indices = state_layers(cache), torch.as_tensor(indices, dtype=torch.int64)
    if not layers or layers[0].state is None:
        raise ValueError("select_state expects a cache that has seen tokens, got an empty one; feed a prompt first")
    B = layers[0].batch_size
    if indices.ndim != 1 or not bool(((indices >= 0) & (indices < B)).all()):
        raise ValueError(f"select_state expects a list of sequences out of 0..{B - 1}, got {indices.tolist()}")
    fork = copy.copy(cache)
    fork.layers = []
    for layer in layers:
        twin = StateLayer()
        twin.state, twin.columns, twin.is_initialized = layer.state, layer.columns, True  # a state is a value
        twin.select(indices)
        fork.layers.append(twin)
    return fork


def resume(cache: Cache, input_ids: Tensor) -> dict[str, Any]:
    """Arguments with which `generate` goes on from a cache with new tokens alone: model.generate(**resume(cache, new)).

    input_ids: [B, N], the tokens after those the cache has seen. The attention mask that transformers wants covers the
    past as well; it is rebuilt from the counts in the state.
    """
    layers = state_layers(cache)
    state, past = (layers[0].state, layers[0].columns) if layers else (None, 0)
    if state is None:
        raise ValueError("resume expects a cache that has seen tokens, got an empty one; pass input_ids to generate")
    if input_ids.ndim != 2 or len(input_ids) != len(state.length):
        raise ValueError(
            f"resume expects input_ids [B, N] with B = {len(state.length)}, got {list(input_ids.shape)}; "
            "pick or repeat sequences of the cache by select_state"
        )
    column = torch.arange(past + input_ids.shape[1], device=input_ids.device)
    mask = column >= past - state.length.to(input_ids.device)[:, None]  # as if padded on the left
    return {"input_ids": input_ids, "attention_mask": mask.long(), "past_key_values": cache}
