"""Small tasks on sequences: which id is the most frequent, of one sequence, of two, and where it stands."""

import numpy as np

from tost.data.sequences import Ragged, SequenceSets


def load(options):
    """name: single, pair or tokens."""
    chance, parts = np.random.default_rng(options.seed), {}
    for part, count in (("train", 96), ("validation", 16), ("test", 33)):
        parts[part] = make(chance, count, options.name)
    classes = ["0", "1", "2"] if options.name == "single" else ["no", "yes"]
    return SequenceSets(
        **parts,
        classes=classes,
        max_length=12,
        vocab_size=4,
        pair=options.name == "pair",
        per_token=options.name == "tokens",
        facts={"from": "a toy"},
    )


def make(chance, count, name):
    labels, lengths = chance.integers(3, size=count), chance.integers(3, 13, size=count)
    parts = [np.where(chance.random(n) < 0.7, a + 1, 0).astype(np.uint8) for a, n in zip(labels, lengths)]
    if name == "tokens":
        return Ragged.of(parts, [(part > 0).astype(np.int64) for part in parts], per_token=True)
    if name == "single":
        return Ragged.of(parts, labels)
    pairs = zip(parts[::2], parts[1::2], labels[::2], labels[1::2])
    return [{"x": a, "other": b, "label": int(p == q)} for a, b, p, q in pairs]
