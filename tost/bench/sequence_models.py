"""Whole models of sequences as the bench runs them: on one of up to a million tokens, on ragged batches."""

# N tokens, S sequences

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tost.bench.gate import HALF_RIVALS, Check, relative_error
from tost.bench.measure import Call
from tost.bench.settings import DTYPES
from tost.data.sequences import collate
from tost.models import SequenceConfig, ToSTSequence

MODELS = {
    "tssa": "tost",
    "linear": "linear attention, plain torch",
    "softmax": "softmax attention, fused (SDPA)",
    "none": "no mixing",
}
VOCABULARY = 24
SIZE: dict[str, Any] = {"dim": 128, "num_layers": 4, "num_heads": 4, "mlp_dim": 512}
TOLERANCE = 1e-4  # of the largest logit, in float32


def model(mixer: str, dtype: str = "float32", device: str = "cpu", causal: bool = False) -> ToSTSequence:
    """A classifier of sequences; the same weights at every call."""
    torch.manual_seed(0)
    config = SequenceConfig(vocab_size=VOCABULARY, num_classes=10, mixer=mixer, causal=causal, **SIZE)
    return ToSTSequence(config).eval().to(device, DTYPES[dtype])


def ids(count: int, device: str = "cpu") -> Tensor:
    """[1, N], the same at every call."""
    return torch.randint(VOCABULARY, (1, count), generator=torch.Generator().manual_seed(count)).to(device)


def ragged(lengths: Sequence[int], device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One batch of sequences of these lengths, packed and padded."""
    items = [{"x": ids(count)[0].numpy(), "label": 0} for count in lengths]
    batches = []
    for pack in (True, False):
        batch = {name: part.to(device) for name, part in collate(items, pack).items()}
        del batch["labels"]
        batches.append(batch)
    return batches[0], batches[1]


def forward(net: ToSTSequence, batch: dict[str, Tensor]) -> Call:
    """A forward pass."""

    def run() -> Tensor:
        with torch.inference_mode():
            return net(**batch)

    return run


def step(net: ToSTSequence, batch: dict[str, Tensor]) -> Call:
    """Forward and backward."""
    net.train()

    def run() -> None:
        net.zero_grad(set_to_none=True)
        net(**batch).float().square().mean().backward()

    return run


def single_calls(mixer: str, counts: Sequence[int], train: bool, dtype: str, device: str) -> Iterator[Call]:
    """The calls on one sequence whose peaks are measured; the kernels are warm before."""
    net, make = model(mixer, dtype, device), step if train else forward
    make(net, {"x": ids(128, device)})()
    for count in counts:
        yield make(net, {"x": ids(count, device)})


def ragged_calls(mixer: str, lengths: Sequence[int], packed: bool, dtype: str, device: str) -> Iterator[Call]:
    """The call on a ragged batch whose peak is measured."""
    net, batch = model(mixer, dtype, device), ragged(lengths, device)[not packed]
    forward(net, ragged([9, 5], device)[not packed])()
    yield forward(net, batch)


def check_models(dtype: str, device: str) -> Iterator[Check]:
    """Each model against itself in float64 and, sequence by sequence, packed and padded against alone."""
    lengths = [1, 63, 200]
    allowed = TOLERANCE if dtype == "float32" else HALF_RIVALS[dtype]
    packed, padded = ragged(lengths, device)
    for mixer in MODELS:
        net, exact = model(mixer, dtype, device), model(mixer, "float32", device).double()
        with torch.inference_mode():
            want = torch.cat([exact(ids(count, device)) for count in lengths])
            yield Check(f"{mixer}, padded, {dtype}: logits", relative_error(net(**padded), want), allowed)
            yield Check(f"{mixer}, packed, {dtype}: logits", relative_error(net(**packed), want), allowed)
