"""Results of `tost bench language` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tost.bench.language_models import LABELS
from tost.bench.prefill import MODEL
from tost.bench.products import KINDS, REST
from tost.bench.tables import Record, header, markdown, number, unique


def report(result: Record) -> str:
    """Header, decoding, forward pass, training step, prefill."""
    worst = max(result["checks"], key=lambda check: check["error"] / check["tolerance"])
    size = result["size"]
    return "\n\n".join(
        [
            header(result["machine"]),
            f"**{result['model']}**: {size['layers']} layers, {size['dim']} features, {size['heads']} heads, a "
            f"vocabulary of {size['vocab']:,}. Gate: green, {len(result['checks'])} comparisons, nearest to its limit: "
            f"{worst['said']}.",
            "**decoding**, milliseconds for one more token after a context (times as long as tost there)\n\n"
            + decode(result["decode"]),
            f"tost at {result['decode'][0]['context']:,} and more tokens, over the first: "
            + ", ".join(f"{r['over_first']:.2f}" for r in result["decode"] if r["contestant"] == "tost"),
            "**kept between two tokens**, KiB\n\n" + states(result["decode"]),
            f"**forward pass** of {result['forward'][0]['tokens']:,} tokens, milliseconds (times as long as tost)\n\n"
            + times(result["forward"]),
            "where its time goes, without the head\n\n" + shares(result["forward_shares"]),
            f"**training step**, 1 x {result['training'][0]['tokens']:,} tokens, forward, backward and AdamW, "
            "milliseconds (times as long as tost)\n\n" + times(result["training"]),
            "where its time goes\n\n" + shares(result["training_shares"]),
            f"**reading a long text**, peak MiB beyond the model ({MODEL}), each in a process of its own\n\n"
            + prefill(result["prefill"]),
        ]
    )


def decode(rows: Sequence[Record]) -> str:
    """Contestants down, contexts across."""
    contexts = unique(r["context"] for r in rows)
    cells = {(r["contestant"], r["context"]): timed(r) for r in rows}
    return _table(cells, contexts, [f"{context:,}" for context in contexts])


def states(rows: Sequence[Record]) -> str:
    """As decode."""
    contexts = unique(r["context"] for r in rows)
    cells = {(r["contestant"], r["context"]): f"{r['state_bytes'] / 1024:,.0f}" for r in rows}
    return _table(cells, contexts, [f"{context:,}" for context in contexts])


def times(rows: Sequence[Record]) -> str:
    """Contestants down, parts (if there are) across."""
    parts = unique(r.get("part", "ms") for r in rows)
    return _table({(r["contestant"], r.get("part", "ms")): timed(r) for r in rows}, parts, parts)


def timed(row: Record) -> str:
    """Such as "12.3 (4.5x)"."""
    factor = f"{row['over_tost']:.0f}" if row["over_tost"] >= 10 else f"{row['over_tost']:.2f}"
    return number(row["ms"]) + ("" if row["contestant"] == "tost" else f" ({factor}x)")


def shares(found: dict[str, dict[str, float]]) -> str:
    """Contestants down, kinds of work across."""
    kinds = [kind for kind in (*KINDS, REST) if any(share[kind] > 0 for share in found.values())]
    cells = {(name, kind): f"{share[kind]:.0%}" for name, share in found.items() for kind in kinds}
    return _table(cells, kinds, kinds)


def prefill(rows: Sequence[Record]) -> str:
    """Ways of reading down, lengths across."""
    lengths, ways = sorted({r["tokens"] for r in rows}), unique(r["chunk"] for r in rows)
    cells = {(r["chunk"], r["tokens"]): _peak(r) for r in rows}
    lines = [
        [f"chunks of {way:,}" if way else "at once", *(cells.get((way, length), "") for length in lengths)]
        for way in ways
    ]
    return markdown(["", *(f"{length:,} tokens" for length in lengths)], lines)


def _peak(row: Record) -> str:
    return (row["note"] or "not measured") if row["bytes"] is None else f"{row['bytes'] / 2**20:,.0f}"


def _table(cells: dict[tuple[str, Any], str], columns: Sequence[Any], heads: Sequence[str]) -> str:
    names = [name for name in LABELS if any((name, column) in cells for column in columns)]
    return markdown(["", *heads], [[LABELS[n], *(cells.get((n, column), "") for column in columns)] for n in names])
