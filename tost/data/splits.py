"""Parts of sets of sequences: at most so many, a share set apart, and what the parts are like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tost.data.images import split_stratified
from tost.data.sequences import Ragged, SequenceSets


def choose(whole: Ragged, indices: Any) -> Ragged:
    """The sequences at `indices`, in that order."""
    indices = np.asarray(indices, dtype=np.int64)
    lengths = np.diff(whole.offsets)[indices]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # element j of the result stands at the begin of its sequence in `whole` plus its place in that sequence
    places = np.arange(offsets[-1]) + np.repeat(whole.offsets[indices] - offsets[:-1], lengths)
    labels = whole.labels[places] if whole.per_token else whole.labels[indices]
    return Ragged(whole.values[places], offsets, labels, whole.per_token)


def set_apart(whole: Ragged, share: float) -> tuple[Ragged, Ragged]:
    """(training, validation) sets: a `share` of every class apart, always the same sequences.

    Raises ValueError where a class has a single sequence and so cannot be split.
    """
    counts = np.bincount(whole.labels)
    if counts[counts > 0].min() < 2:
        alone = int(np.flatnonzero(counts == 1)[0])
        raise ValueError(f"class {alone} has a single training sequence and cannot be split; leave the class out")
    kept, apart = split_stratified(whole.labels, share)
    return choose(whole, kept), choose(whole, apart)


def split_by_content(contents: Sequence[bytes], labels: Any, shares: Sequence[float]) -> list[np.ndarray]:
    """Indices of len(shares) + 1 parts: `shares` of the different contents of every class, and first what is left.

    Equal contents stay together, so no part knows another's; a content decides by its hash, so that the split does not
    depend on the order. labels: [n]; of equal contents the first counts. Raises ValueError for a class too small.
    """
    hashes = [hashlib.sha256(content).digest() for content in contents]
    first = dict(reversed(list(zip(hashes, np.asarray(labels).tolist()))))
    part_of: dict[bytes, int] = {}
    for label in sorted(set(first.values())):
        members = sorted(code for code in first if first[code] == label)
        counts = [max(1, round(share * len(members))) for share in shares]
        if sum(counts) >= len(members):
            raise ValueError(f"class {label} has {len(members)} different sequences, too few to split")
        parts = np.repeat(np.arange(len(shares) + 1), [len(members) - sum(counts), *counts])
        part_of |= dict(zip(members, parts.tolist()))
    places = np.array([part_of[code] for code in hashes])
    return [np.flatnonzero(places == part) for part in range(len(shares) + 1)]


def at_most(whole: Ragged, count: int | None, seed: int = 0) -> Ragged:
    """`count` sequences chosen by the seed, in their order; all of them where there are no more or count is None."""
    if count is None or count >= len(whole):
        return whole
    chosen = np.random.RandomState(seed).permutation(len(whole))[:count]  # the legacy stream is frozen
    return choose(whole, np.sort(chosen))


def describe(part: Ragged) -> dict[str, Any]:
    """How many sequences and tokens, the longest, the share of the commonest class, a fingerprint of the content."""
    lengths = np.diff(part.offsets)
    told = hashlib.sha256()
    for array in (part.values, part.offsets, part.labels):
        told.update(np.ascontiguousarray(array).data)
    counts = np.bincount(part.labels[part.labels >= 0])
    return {
        "sequences": len(part),
        "tokens": int(lengths.sum()),
        "median": int(np.median(lengths)) if len(part) else 0,
        "longest": int(lengths.max()) if len(part) else 0,
        "commonest": round(float(counts.max() / counts.sum()), 4) if len(counts) else 0.0,
        "fingerprint": told.hexdigest()[:16],
    }


def sequence_sets(
    parts: dict[str, Ragged], *, classes: list[str], max_length: int, facts: dict[str, Any], **more: Any
) -> SequenceSets:
    """The task of parts "train", "validation" and "test", whose facts say of every part what `describe` says."""
    told = {**facts, **{name: describe(parts[name]) for name in ("train", "validation", "test")}}
    train, validation, test = (parts[name] for name in ("train", "validation", "test"))
    return SequenceSets(train, validation, test, classes, max_length, facts=told, **more)
