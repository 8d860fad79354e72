"""How much memory a language model needs, before it exists: reading, writing, training; and what would fit."""

# B batch, N tokens of a chunk, T tokens of the context, C = hidden_size, H heads, L layers

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tost.deploy.plan_trace import DTYPES, Reading, Step, deep, trace_reading, trace_step
from tost.models.language import ToSTConfig, ToSTForCausalLM

RESERVE = 3 * 2**28  # of a GPU: CUDA's context, cuBLAS' workspace, the allocator's gaps; assumed, not computed


@dataclass(frozen=True)
class Case:
    """What is planned: `batch` sequences of `context` tokens, read `chunk` at a time, or trained on in one step.

    dtype: "float32", "bfloat16", or "int8": the blocks' matrices (weight-only), the rest and all products in bfloat16;
    in training the products' (autocast), weights are float32.  offload: what is not in use waits on the host.
    checkpointing: training keeps a block's input alone and runs the block again.  device: "cuda" or "cpu".
    Raises ValueError for impossible values.
    """

    context: int = 32768
    batch: int = 1
    chunk: int = 2048
    dtype: str = "bfloat16"
    train: bool = False
    checkpointing: bool = False
    offload: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        for name in ("context", "batch", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"plan expects {name} of at least 1, got {getattr(self, name)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"plan expects dtype out of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.train and self.dtype == "int8":
            raise ValueError("int8 weights take no gradient; plan training in bfloat16 or float32")
        if self.checkpointing and not self.train:
            raise ValueError("checkpointing is of training, reading keeps nothing for a backward pass; add --train")


@dataclass
class Plan:
    """Bytes on the device by part, and on the host."""

    config: ToSTConfig
    case: Case
    parameters: int
    parts: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)
    kept: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class Planner:
    """Plans of one configuration; each trace is made once.  told: called after each, for a progress bar."""

    def __init__(self, config: ToSTConfig, told: Callable[[], Any] | None = None) -> None:
        self.config, self._told = config, told
        with torch.device("meta"):
            self.model = ToSTForCausalLM(config)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._traces: dict[Any, Any] = {}

    def plan(self, case: Case) -> Plan:
        """The parts of `case`. Raises ValueError if the model has no positions for the context."""
        limit = table(self.config)
        if limit is not None and case.context > limit:
            raise ValueError(
                f"the model has learned positions for {limit:,} tokens, got a context of {case.context:,}; plan "
                f"--context {limit}, or a model with position_mode 'clamped' or 'none'"
            )
        return self._training(case) if case.train else self._reading(case)

    def _reading(self, case: Case) -> Plan:
        chunk = min(case.chunk, case.context)
        key = (case.dtype, case.batch, case.context, chunk)
        trace: Reading = self._traced(trace_reading, *key)
        weights, host = trace.weights, {}
        if case.offload:
            weights = self._largest_leaf(case.dtype)
            host = {"weights": trace.weights}
        parts = {
            "weights": weights,
            "state": trace.state,
            "tokens": trace.tokens,
            f"activations of {chunk:,} tokens": trace.working,
        }
        return Plan(self.config, case, self.parameters, parts | reserve(case), host)

    def _training(self, case: Case) -> Plan:
        foreach = True if case.device == "cuda" and not case.offload else None
        key = (case.dtype, case.batch, case.context, case.checkpointing, foreach)
        trace: Step = self._traced(trace_step, *key)
        parts = {"weights": trace.weights, "gradients": trace.gradients, "optimiser": trace.optimiser}
        host = {}
        if case.offload:
            root, block = self._units()
            host, parts = parts, {"weights": root + 2 * block, "gradients": root + 2 * block}
        updates = trace.updating > max(trace.beginning, trace.ending)
        parts |= {"tokens": trace.tokens, "AdamW's update" if updates else "activations and logits": trace.working}
        return Plan(self.config, case, self.parameters, parts | reserve(case), host, trace.kept)

    def _traced(self, trace: Callable[..., Any], *options: Any) -> Any:
        if options not in self._traces:  # those of the two kinds differ in number
            self._traces[options] = deep(trace, self.config, *options)
            if self._told is not None:
                self._told()
        return self._traces[options]

    def _largest_leaf(self, dtype: str) -> int:
        """Bytes of the largest module with weights of its own: what accelerate's offloading has on the device."""
        size = DTYPES[dtype].itemsize
        return max(sum(p.numel() for p in m.parameters(recurse=False)) for m in self.model.modules()) * size

    def _units(self) -> tuple[int, int]:
        """Bytes of the float32 weights outside of the blocks, and of the largest block."""
        blocks = [4 * sum(p.numel() for p in block.parameters()) for block in self.model.model.blocks]
        return 4 * self.parameters - sum(blocks), max(blocks)


def plan_memory(config: ToSTConfig, **options: Any) -> Plan:
    """Memory of a language model by part, before it exists.

    The model's own code runs on tensors without data: whatever its configuration, what it allocates is counted.
    options: those of Case.
    Raises ValueError for impossible options, or a context beyond the learned positions.
    """
    return Planner(config).plan(Case(**options))


def table(config: ToSTConfig) -> int | None:
    """Tokens at which learned positions end, None if they don't."""
    return config.max_position_embeddings if config.position_mode == "learned" else None


def softmax_twin(config: ToSTConfig) -> ToSTConfig:
    """Softmax attention with the same width, layers, heads, MLP and vocabulary; its positions are left out."""
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "norm", "mlp", "intermediate_size")
    kept = {name: getattr(config, name) for name in (*same, "bias", "tie_word_embeddings")}
    return ToSTConfig(**kept, mixer="softmax", position_mode="none", layer_scale_init=None)


def scores(config: ToSTConfig, case: Case) -> int:
    """Bytes of the scores of one layer, [B, H, N, T], which attention forms where it is not fused."""
    rows = case.context if case.train else min(case.chunk, case.context)
    return case.batch * config.num_attention_heads * rows * case.context * DTYPES[case.dtype].itemsize


def reserve(case: Case) -> dict[str, int]:
    """What a GPU takes besides tensors."""
    return {"reserve (assumed)": RESERVE} if case.device == "cuda" else {}
