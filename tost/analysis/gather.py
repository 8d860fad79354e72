"""One pass over the samples of every set, from which most figures are drawn."""

# B batch, N tokens, H heads, P features per head, L layers

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tost.analysis.progress import progress
from tost.analysis.recorders import Sight, has_memberships, mixing_blocks, run, watching
from tost.analysis.statistics import Gathered, entropy
from tost.rates import RateRecord, record_rates


@dataclass
class Overview:
    """Of every set by name: sums over its samples, and (of models with memberships) its rates."""

    sums: dict[str, Gathered] = field(default_factory=dict)
    rates: dict[str, RateRecord] = field(default_factory=dict)

    def exact(self) -> dict[str, Tensor]:
        """By set [L, B]: the exact counterpart of every block's output rate."""
        return {
            name: torch.stack([torch.cat(sums.exact) for sums in self.sums[name].layers.values()])
            for name in self.rates
        }


def overview(subject: Any, samples: int, batch_size: int) -> Overview:
    """Run the model over at most `samples` of every set."""
    found, recorded = Overview(), has_memberships(subject.model)
    for name in subject.sets:
        sums, records = Gathered(len(mixing_blocks(subject.model))), []
        batches = subject.batches(name, samples, batch_size)
        total = -(-min(samples, len(subject.sets[name])) // batch_size)
        with watching(subject.model, sums.see):
            for batch in progress(batches, f"{name} samples", total):
                if recorded:
                    records.append(record_rates(subject.model, batch))
                else:
                    run(subject.model, batch)
        found.sums[name] = sums
        if recorded:
            found.rates[name] = RateRecord.cat(records)
    return found


def membership_sums(model: Any, batch: Any) -> dict[str, Tensor]:
    """Layer -> [B, N, 2]: effective heads of every token of one batch, and their distance from equal shares in nats."""
    found: dict[str, Tensor] = {}

    def see(sight: Sight) -> None:
        if sight.membership is not None:
            nats = entropy(sight.membership)
            found[sight.layer] = torch.stack([nats.exp(), math.log(sight.membership.shape[-1]) - nats], -1).cpu()

    with watching(model, see):
        run(model, batch)
    return found
