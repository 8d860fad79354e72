"""Proteins and nucleic acids from FASTA files, plain or gzip: a header line >NAME ..., then lines of letters."""

from __future__ import annotations

import functools
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from tqdm import tqdm

ALPHABETS = {  # ids begin at 1 in this order, 0 pads
    "protein": "ACDEFGHIKLMNPQRSTVWYXBZUO*-",
    "dna": "ACGTNRYSWKMBDHV-",
    "labels": "".join(chr(code) for code in range(33, 127)),  # a letter a residue that says what it is; case counts
}
SYNONYMS = {"dna": {"U": "T"}}  # RNA reads as DNA
MAX_RESIDUES = 2**28  # the longest human chromosome has 248 million
LINE = 2**20  # bytes read at once; lines of letters may be longer, headers may not
NEWLINE, MARKED = b"\n", re.compile(rb"^[>;][^\n]*", re.MULTILINE)


class Record(NamedTuple):
    """One sequence: its name (the header's first word), the header without >, ids uint8 [N], the header's line."""

    name: str
    header: str
    ids: np.ndarray
    line: int


def read_fasta(path: str | Path, alphabet: str = "protein", max_residues: int = MAX_RESIDUES) -> Iterator[Record]:
    """The records of a file one after the other; only the one at hand is in memory.

    Lower case counts as upper case, but in labels. Raises ValueError, naming record, line and letter, for a letter
    outside the alphabet, a record without residues, letters before the first header, a file without records, a gzip
    file that is cut off, and more than `max_residues` residues in all (a small compressed file can hold billions).
    """
    if alphabet not in ALPHABETS:
        raise ValueError(f"read_fasta knows the alphabets {', '.join(ALPHABETS)}, got {alphabet!r}")
    path = Path(path)
    header, begin, total = "", 0, 0
    pieces: list[np.ndarray] = []
    for number, block in _blocks(path, max_residues):
        if block.startswith(b">"):
            if begin:
                yield _record(path, header, pieces, begin)
            header, begin, pieces = block[1:].decode("utf-8", "replace").strip(), number, []
        elif begin:
            ids = _ids(block, alphabet, path, header, number)
            total += len(ids)
            if total > max_residues:
                raise ValueError(_too_much(path, max_residues))
            if len(ids):
                pieces.append(ids)
        elif block.strip():
            number += block[: len(block) - len(block.lstrip())].count(b"\n")
            raise ValueError(f"{path}, line {number}: expected a header, >NAME, before the first letters; is it FASTA?")
    if not begin:
        raise ValueError(f"{path}: no record in it; FASTA has a line >NAME before every sequence")
    yield _record(path, header, pieces, begin)


def letters(ids: Any, alphabet: str = "protein") -> str:
    """The sequence as text; the inverse of reading."""
    return "".join(ALPHABETS[alphabet][int(i) - 1] for i in ids)


def encode(text: str, alphabet: str = "protein") -> np.ndarray:
    """Ids uint8 of a sequence given as text; ValueError for a letter outside the alphabet."""
    return _ids(text.encode("utf-8"), alphabet, "sequence", text[:20], 1)


def guess_alphabet(path: str | Path, count: int = 1000) -> str:
    """dna where the first sequence's first letters are all of ACGTUN, else protein."""
    for _, block in _blocks(Path(path), MAX_RESIDUES):
        if block.strip() and not block.startswith(b">"):
            return "dna" if set(block.strip()[:count].upper()) <= set(b"ACGTUN-\r\n") else "protein"
    return "protein"


@functools.cache
def _table(alphabet: str) -> np.ndarray:
    """[256] ids of bytes; 254 drops one (white space), 255 refuses it."""
    table = np.full(256, 255, dtype=np.uint8)
    table[list(b" \t\r\n\v\f")] = 254
    known = ALPHABETS[alphabet]
    for letter, kin in [*zip(known, known), *SYNONYMS.get(alphabet, {}).items()]:
        both = (letter,) if alphabet == "labels" else (letter, letter.lower())
        table[[ord(one) for one in both]] = known.index(kin) + 1
    return table


def _ids(block: bytes, alphabet: str, path: Any, header: str, number: int) -> np.ndarray:
    ids = _table(alphabet)[np.frombuffer(block, dtype=np.uint8)]
    if (ids == 255).any():
        place = int((ids == 255).argmax())
        letter = block[place : place + 4].decode("utf-8", "replace")[0]
        raise ValueError(
            f"{path}: record {_name(header)!r}, line {number + block.count(NEWLINE, 0, place)}: {letter!r} is none of "
            f"the letters {ALPHABETS[alphabet]}; mend the file or name another alphabet"
        )
    return ids[ids != 254]


def _name(header: str) -> str:
    return header.split(maxsplit=1)[0] if header.strip() else ""


def _record(path: Path, header: str, pieces: list[np.ndarray], begin: int) -> Record:
    ids = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint8)
    if not _name(header):
        raise ValueError(f"{path}, line {begin}: a header without a name; expected >NAME")
    if not len(ids):
        raise ValueError(f"{path}: record {_name(header)!r}, line {begin}: no residues; remove it or complete the file")
    return Record(_name(header), header, ids, begin)


def _blocks(path: Path, max_residues: int) -> Iterator[tuple[int, bytes]]:
    """(line number, bytes): a header alone, or what stands between two of them, in pieces of bounded size.

    A piece behind a header begins with that header's line end. Lines that begin with ; are comments and left out.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected FASTA, plain or gzip")
    number, fresh, read = 1, True, 0
    with open(path, "rb") as raw, _progress(path) as bar:
        file = _opened(raw)
        while block := _some(file, path):
            bar.update(raw.tell() - bar.n)
            read += len(block)
            if read > 2 * max_residues + 2 * LINE:
                raise ValueError(_too_much(path, max_residues))
            begin = 0
            for found in MARKED.finditer(block):
                if not fresh and not found.start():
                    continue  # inside a long line of letters
                if begin < found.start():
                    yield number, block[begin : found.start()]
                number += block.count(NEWLINE, begin, found.start())
                if len(found[0]) >= LINE:
                    raise ValueError(f"{path}, line {number}: a header of more than {LINE:,} bytes; is it FASTA?")
                if found[0].startswith(b">"):
                    yield number, found[0]
                begin = found.end()
            if begin < len(block):
                yield number, block[begin:]
            number += block.count(NEWLINE, begin)
            fresh = block.endswith(NEWLINE)


def _opened(raw: IO[bytes]) -> Any:
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.open(raw) if packed else raw


def _some(file: Any, path: Path) -> bytes:
    """LINE bytes and the rest of their last line, as far as it has no more than LINE."""
    try:
        block = file.read(LINE)
        return block if block.endswith(NEWLINE) else block + file.readline(LINE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); get it again") from None


def _too_much(path: Path, max_residues: int) -> str:
    return f"{path}: more than {max_residues:,} residues; split the file, or raise max_residues where memory allows it"


def _progress(path: Path) -> Any:
    size = path.stat().st_size
    return tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False, disable=None)
