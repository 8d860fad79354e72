"""`quantize_run`: a run in eight bits, saved beside it if its own evaluation says that nothing was lost."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tost.bench.tables import markdown
from tost.deploy.forms import Form, build, float_file, forms_of, latencies, weight_bytes, working_memory
from tost.deploy.quality import Quality, judge_of
from tost.models.quantized import LINEAR, WEIGHTS, is_quantized, save_quantized
from tost.shipped import HERE, run_or_shipped
from tost.training.runs import SUMMARY, read_config, read_summary

# of a run, what its quantised form needs too; the weights are written anew
KEPT = (
    "config.yaml",
    "config.json",
    "summary.json",
    "data.json",
    "generation_config.json",
    "subspaces.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


class QuantizationRefused(ValueError):
    """More was lost than is allowed; `table` shows what was measured, and nothing was written."""

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


def quantize_run(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    linear: str = "dynamic",
    gates: bool = False,
    bits: int = 8,
    data: dict[str, Any] | None = None,
    measure: bool = True,
) -> dict[str, Any]:
    """Quantise a finished run, evaluate it as the run evaluates itself, and save it if that holds.

    The gate: at most 0.3 points of accuracy or 0.01 nats a token less than the float32 model.
    out: the new folder (default: RUN-int8 beside the run; of a shipped run runs/NAME-int8).
    linear: "dynamic", "weight" or "none", see Quantization.  gates: the operator in eight bits too.
    data: settings of a vision recipe's data to replace, such as {"path": ...}.
    measure: time, bytes and working memory of float32, bfloat16, torchao alone and all; else the qualities alone.
    Returns {"folder", "table" (Markdown), "rows"}. Raises QuantizationRefused, with the table, where too much is lost;
    ValueError for a folder that is no finished run, is quantised already, or an `out` that exists.
    """
    folder = run_or_shipped(run)
    if bits != 8:
        raise ValueError(f"quantize knows 8 bits, got {bits}; leave --bits out")
    if linear not in LINEAR:
        raise ValueError(f"--linear is one of {', '.join(LINEAR)}, got {linear!r}")
    if linear == "none" and not gates:
        raise ValueError("nothing to quantise with --linear none; add --gates, or choose dynamic or weight")
    if is_quantized(folder):
        raise ValueError(f"{folder} is quantised already; quantise the run it was made from")
    recipe = read_config(folder)
    if read_summary(folder) is None:
        raise ValueError(f"{folder} has no {SUMMARY}: it is not finished; the `tost train` command goes on with it")
    target = _target(folder, out)
    candidates = forms_of(linear, gates)
    models = [build(str(folder), form) for form in candidates]  # before the data are read: what cannot be is said now
    judge = judge_of(folder, recipe, data)
    qualities = [judge(model, form.name) for form, model in zip(candidates, models)]
    rows = [_row(form, quality, qualities[0]) for form, quality in zip(candidates, qualities)]
    with _part(target) as part:
        save_quantized(models[-1], part)
        if measure:
            _measure(rows, candidates, models, folder, recipe, (part / WEIGHTS).stat().st_size)
        table = markdown(*_cells(rows))
        _gate(folder, qualities, table)
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, part / name)
        models[-1].quantization.measured = {"rows": rows}
        save_quantized(models[-1], part)
        (part / "README.md").write_text(_card(folder, table), encoding="utf-8")
        os.replace(part, target)
    return {"folder": str(target), "table": table, "rows": rows}


def _target(folder: Path, out: str | os.PathLike[str] | None) -> Path:
    """The folder to write, which must not be there."""
    beside = Path("runs") if folder.parent == HERE else folder.parent
    target = Path(out) if out is not None else beside / f"{folder.resolve().name}-int8"
    if target.exists():
        raise ValueError(f"{target} exists; remove it, or choose another --out")
    return target


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """A folder to fill, beside the target; gone afterwards, unless it was renamed."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _row(form: Form, quality: Quality, before: Quality) -> dict[str, Any]:
    """What is known of a form before anything is timed."""
    return {"form": form.name, **quality._asdict(), "lost": before.lost(quality), "unit": quality.unit}


def _measure(
    rows: list[dict[str, Any]], forms: list[Form], models: list[Any], folder: Path, recipe: Any, saved: int
) -> None:
    """Add file and weights in bytes, working memory and milliseconds to the rows."""
    for row, model, form in zip(rows, models, forms):
        row["weights"] = weight_bytes(model)
        row["file"] = saved if form.linear != "none" else float_file(model)
    for row, times in zip(rows, latencies(models, recipe)):
        row["ms"] = times
    for row, size in zip(rows, working_memory(str(folder), forms)):
        row["working"] = size


def _cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table."""
    timed = list(rows[0].get("ms", {}))
    head = ["", "quality", f"lost, {rows[0]['unit']}"]
    if timed:
        head += ["file MB", "weights MB", f"working MB, {timed[0]}", *(f"ms, {name}" for name in timed)]
    lines = []
    for row in rows:
        quality = Quality(row["accuracy"], row["nats"], row["number"])
        digits = 4 if row["accuracy"] is None else 2
        cells = [row["form"], str(quality), f"{row['lost']:.{digits}f}"]
        if timed:
            working = "?" if row["working"] is None else f"{row['working'] / 1e6:.1f}"
            cells += [f"{row['file'] / 1e6:.2f}", f"{row['weights'] / 1e6:.2f}", working]
            cells += [f"{row['ms'][name]:.2f} ({rows[0]['ms'][name] / row['ms'][name]:.2f}x)" for name in timed]
        lines.append(cells)
    return head, lines


def _gate(folder: Path, qualities: list[Quality], table: str) -> None:
    """QuantizationRefused unless the last is nearly as good as the first; NaN is not."""
    lost = qualities[0].lost(qualities[-1])
    if not lost <= qualities[0].limit + 1e-9:
        raise QuantizationRefused(
            f"{folder} loses {lost:.4g} {qualities[0].unit} in eight bits, more than the {qualities[0].limit} allowed; "
            "nothing was written; try --linear weight, or leave --gates out",
            table,
        )


def _card(folder: Path, table: str) -> str:
    """The README.md of the folder."""
    return (
        f"# {folder.resolve().name} in eight bits\n\nMade by `tost quantize` of a trained run; its model is read by "
        f"`tost.deploy.load_quantized`.\nMeasured when it was made, the speed-up over float32 in brackets:\n\n{table}\n"
    )
