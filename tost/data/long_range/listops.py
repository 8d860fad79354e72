"""ListOps (Nangia and Bowman 2018) with the settings of the Long Range Arena, generated or read.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]  ->  5

Operators MIN, MAX, MED (the median; of an even number the mean of the middle two, rounded down) and SM (the sum modulo
10); a token is a digit, an operator with its bracket, or a closing bracket. The published script makes a node above
the greatest depth an operator with probability 1/4, of 2 to 10 arguments, and keeps expressions of more than 500 and
fewer than 2000 tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tost.data.sequences import Ragged, SequenceSets
from tost.data.sources import SequenceOptions
from tost.data.splits import at_most, sequence_sets

TOKENS = ["", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]"]  # by id; 0 is padding
COUNTS = {"train": 96000, "validation": 2000, "test": 2000}
MAX_DEPTH, MAX_ARGUMENTS, NESTING = 10, 10, 0.25
FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
LETTERS = {b"[MIN": b"\1", b"[MAX": b"\2", b"[MED": b"\3", b"[SM": b"\4"}  # bytes that no text holds
SYMBOLS = bytearray([255]) * 256
for _id, _symbol in enumerate([*b"0123456789", 1, 2, 3, 4, *b"]"], 1):
    SYMBOLS[_symbol] = _id
HEADER = b"Source\tTarget"


def load_listops(options: SequenceOptions) -> SequenceSets:
    """The released files in the folder options.path, else sequences generated from options.seed.

    Generated sets are the same for a seed whatever else is asked for: validation and test do not change with the number
    of training sequences. Raises ValueError naming the file and line, or the lengths that no expression has.
    """
    longest = options.max_length or 2000
    if options.path is not None:
        parts = {part: _read(Path(options.path) / name, longest) for part, name in FILES.items()}
        parts["train"] = at_most(parts["train"], options.samples, options.seed)
        for part in ("validation", "test"):
            parts[part] = at_most(parts[part], options.evaluated, options.seed)
        facts: dict[str, Any] = {"from": "released files"}
    else:
        counts = {part: options.evaluated or COUNTS[part] for part in ("test", "validation")}
        counts["train"] = options.samples or COUNTS["train"]
        parts = generate(counts, options.min_length or min(500, longest // 4), longest, options.seed)
        facts = {"from": "generated", "seed": options.seed}
    classes = [str(i) for i in range(10)]
    return sequence_sets(parts, classes=classes, max_length=longest, vocab_size=len(TOKENS), facts=facts)


def evaluate(ids: Any) -> int:
    """The value of an expression given by its tokens' ids: the definition.

    Raises ValueError where the brackets do not match or an operator has no argument.
    """
    stack: list[tuple[str, list[int]]] = []
    ids = [int(i) for i in ids]
    for place, token in enumerate(TOKENS[i] for i in ids):
        if token.startswith("["):
            stack.append((token, []))
            continue
        if token == "]" and stack and stack[-1][1]:
            operator, arguments = stack.pop()
            value = apply(operator, arguments)
        elif token.isdigit():
            value = int(token)
        else:
            break
        if stack:
            stack[-1][1].append(value)
        elif place == len(ids) - 1:
            return value
        else:
            break
    raise ValueError(f"not an expression of ListOps: brackets that do not match in {len(ids)} tokens")


def apply(operator: str, arguments: list[int]) -> int:
    """The value of one operator."""
    ranked, count = sorted(arguments), len(arguments)
    values = {
        "[MIN": ranked[0],
        "[MAX": ranked[-1],
        "[MED": (ranked[(count - 1) // 2] + ranked[count // 2]) // 2,
        "[SM": sum(arguments) % 10,
    }
    return values[operator]


def generate(counts: dict[str, int], shortest: int, longest: int, seed: int = 0) -> dict[str, Ragged]:
    """{part: counts[part] expressions of shortest < length < longest}, no expression twice, not in two parts either.

    The parts are made in the order of `counts`, each from its own stream of random numbers.
    """
    if longest - shortest < 2:
        raise ValueError(f"ListOps has lengths above data.min_length, below data.max_length: got {shortest}, {longest}")
    known: set[int] = set()
    bar = tqdm(total=sum(counts.values()), desc="ListOps", unit=" expressions", delay=2, leave=False, disable=None)
    with bar:
        return {part: _generate(count, shortest, longest, seed, part, known, bar) for part, count in counts.items()}


def _generate(
    count: int, shortest: int, longest: int, seed: int, part: str, known: set[int], bar: Any, chunk: int = 1000
) -> Ragged:
    from tost.data.long_range import chance, listops_trees

    state = chance.start(seed, ["train", "validation", "test"].index(part))
    settings = (shortest, longest, MAX_DEPTH, MAX_ARGUMENTS, NESTING)
    flat = np.zeros(chunk * longest, dtype=np.uint8)
    ends, values, hashes = (np.zeros(chunk, dtype=kind) for kind in (np.int64, np.int64, np.uint64))
    pieces: list[np.ndarray] = []
    labels: list[int] = []
    while len(labels) < count:
        made = listops_trees.fill(state, settings, 2_000_000, flat, ends, values, hashes)
        before = len(labels)
        for i in range(made):
            code = int(hashes[i])
            if code not in known and len(labels) < count:
                known.add(code)
                pieces.append(flat[ends[i - 1] if i else 0 : ends[i]].copy())
                labels.append(int(values[i]))
        if len(labels) < min(count, before + made // 100 + 1):
            raise ValueError(
                f"ListOps: only {len(labels)} of {count} different expressions of more than {shortest} and fewer than "
                f"{longest} tokens were found; widen data.min_length to data.max_length or ask for fewer"
            )
        bar.update(len(labels) - before)
    return Ragged.of(pieces, labels)


def _read(path: Path, longest: int) -> Ragged:
    """One released file: a header, then lines of expression, tab, value; LRA's parentheses mean nothing."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; ListOps is read from a folder of {', '.join(FILES.values())}")
    pieces, labels = [], []
    with open(path, "rb") as file:
        if file.readline().strip() != HEADER:
            raise ValueError(f"{path}, line 1: expected the header Source, tab, Target")
        lines = tqdm(file, desc=path.name, unit=" lines", delay=2, leave=False, disable=None)
        for number, line in enumerate(lines, 2):
            if not line.strip():
                continue
            source, _, target = line.rstrip(b"\r\n").rpartition(b"\t")
            ids = _ids(source)
            if not len(ids) or ids.max() > 15 or len(target) != 1 or not target.isdigit():
                raise ValueError(f"{path}, line {number}: expected an expression of ListOps, tab, a digit")
            if number < 22:  # a few are enough to find a file whose labels belong to something else
                _check(ids, int(target), f"{path}, line {number}")
            pieces.append(ids[:longest].copy())
            labels.append(int(target))
    if not pieces:
        raise ValueError(f"{path}: no line after the header")
    return Ragged.of(pieces, labels)


def _check(ids: np.ndarray, target: int, place: str) -> None:
    try:
        value = evaluate(ids)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if value != target:
        raise ValueError(f"{place}: the expression is {value}, the file says {target}")


def _ids(source: bytes) -> np.ndarray:
    """Ids of an expression's tokens; 16 and more is what is none."""
    source = source.translate(None, b"() ")
    for operator, letter in LETTERS.items():
        source = source.replace(operator, letter)
    return np.frombuffer(source.translate(SYMBOLS), dtype=np.uint8)
