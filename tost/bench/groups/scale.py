"""Time and memory over the number of tokens: the paper's table, the article's, and on to a million."""

# N tokens

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from tqdm import tqdm

from tost.analysis.growth_law import Points, crossing, exponent, tail
from tost.bench import layers, operators
from tost.bench.contestants import LABELS, OPS, OURS, Case
from tost.bench.gate import check_definition
from tost.bench.limits import Limits
from tost.bench.measure import paired, ratio
from tost.bench.peak import peaks
from tost.bench.presence import absentees
from tost.bench.result import Result
from tost.bench.tables import markdown, mebibytes, number, pivot, timed, times, tokens

SHAPE = (8, 48)  # H, D of the paper's comparison, batch 1
COUNTS = {True: (256, 1024, 4096, 16384), False: tuple(4**k for k in range(3, 11))}  # quick and not
LAYER_COUNTS = {True: (512, 1024, 2048), False: (1024, 2048, 4096, 8192, 10240)}
ARTICLE = 4096  # tokens of the article's table
ARTICLE_SAYS = {"ms": 12, "bytes": 21}  # times as fast, times less memory than unfused softmax attention
CALL_S = {True: 3.0, False: 6.0}  # of an operator
LAYERS_S = {True: 12.0, False: 25.0}  # of twelve layers
CASE_S = {True: 2.0, False: 8.0}
BUDGET_S = {True: 60.0, False: 600.0}


def measure(result: Result) -> None:
    """The layers' table, then the operators over tokens, each checked first."""
    settings = result.settings
    result.absent = absentees(settings) | {"compiled": "compiles anew for every length: see ops"}
    if not result.check(check_definition()):
        return
    limits = Limits(CALL_S[settings.quick], BUDGET_S[settings.quick or settings.device == "cuda"], result.absent)
    cases = [
        Case(op, train, 1, count, *SHAPE, settings.dtype, settings.device)
        for count in COUNTS[settings.quick]
        for op in OPS
        for train in (False, True)
    ]
    names = [name for name in operators.names_of(result) if not name.startswith(("sdpa_", "copy"))]
    for case in tqdm(cases, unit="case", desc="over tokens", leave=False):
        rounds = settings.rounds or (5 if settings.quick else 7)
        if not operators.time_case(result, limits, case, names, rounds, CASE_S[settings.quick], 1):
            return
    if not measure_layers(result):
        return
    for name in tqdm([n for n in names if n != "clone"], unit="contestant", desc="peak memory", leave=False):
        result.add("peak", operators.operator_peaks(limits, name, cases))


def measure_layers(result: Result) -> bool:
    """Time and peak of the paper's twelve layers; False if one is wrong."""
    settings = result.settings
    options = (settings.dtype, settings.device)
    slowest: dict[str, tuple[int, float]] = {}
    limit = LAYERS_S[settings.quick]
    for count in tqdm(LAYER_COUNTS[settings.quick], unit="length", desc="twelve layers", leave=False):
        if not result.check(layers.check_layers(count, *options)):
            return False
        skipped = {n for n, (at, s) in slowest.items() if n in ("softmax", "sdpa") and s * (count / at) ** 2 > limit}
        names = [name for name in layers.LAYERS if name not in skipped]
        samples = paired(layers.timed_calls(names, count, *options), settings.rounds or 5, 9.0, 1, options[1])
        for name in layers.LAYERS:
            record: dict[str, Any] = {"contestant": name, "N": count, "ms": None, "note": f"over {limit:.0f} s a call"}
            if name in samples:
                slowest[name] = (count, median(samples[name]))
                record |= {"ms": 1e3 * slowest[name][1], "note": None}
                record["over_tost"] = ratio(samples[name], samples["tost"])
            result.add("layers", [record])
    for name in layers.LAYERS:
        counts = [r["N"] for r in result.of("layers", contestant=name) if r["ms"] is not None]
        found = peaks("tost.bench.layers:calls", [name, counts, *options], len(counts), settings.device)
        result.add("layers_peak", ({"contestant": name, "N": n, **p._asdict()} for n, p in zip(counts, found)))
    return True


def report(result: Result) -> list[str]:
    """The three tables, and what they say."""
    return [*_layers(result), *_article(result), *_over_tokens(result), *verdicts(result)]


def figures(result: Result) -> dict[str, Any]:
    """Time and memory over tokens, forward and with backward."""
    from tost.analysis import benchmark_figure

    return {f"scale-{kind}": benchmark_figure(result.records, kind) for kind in ("forward", "forward+backward")}


def points(result: Result, what: str, key: str, **values: Any) -> Points:
    """[(N, value)] of the records of a table where there is a value."""
    return [(r["N"], r[key]) for r in result.of(what, **values) if r.get(key)]


def _layers(result: Result) -> Iterator[str]:
    title = f"**the paper's comparison**: {layers.DEPTH} attention layers, d {layers.DIM}, K {layers.HEADS}, batch 1"
    yield (
        f"{title}, forward, milliseconds (times as long as tost)\n\n"
        + pivot(result.of("layers"), "N", timed("over_tost", "tost"), layers.LAYERS, head=tokens)
    )
    yield "the same, peak MiB\n\n" + pivot(result.of("layers_peak"), "N", mebibytes, layers.LAYERS, head=tokens)
    for rival in ("softmax", "sdpa"):
        pairs = {}
        for what, key in (("layers", "ms"), ("layers_peak", "bytes")):
            ours, theirs = (dict(points(result, what, key, contestant=name)) for name in ("tost", rival))
            common = sorted(set(ours) & set(theirs))
            if common:
                pairs[key] = (common[-1], theirs[common[-1]] / ours[common[-1]])
        if len(pairs) == 2:
            yield (
                f"At {pairs['ms'][0]:,} tokens the {layers.LAYERS[rival]} takes {times(pairs['ms'][1])} the time and "
                f"(at {pairs['bytes'][0]:,}) {times(pairs['bytes'][1])} the memory of tost's."
            )


def _article(result: Result) -> Iterator[str]:
    """The article's two numbers beside ours."""
    lines = []
    for direction in ("forward", "forward+backward"):
        for name in ("softmax", "sdpa"):
            ratios = {}
            for what, key in (("time", "ms"), ("peak", "bytes")):
                chosen = {"op": "full", "direction": direction, "N": ARTICLE}
                theirs = points(result, what, key, contestant=name, **chosen)
                ours = [value for o in OURS for _, value in points(result, what, key, contestant=o, **chosen)]
                ratios[key] = times(theirs[0][1] / min(ours)) if theirs and ours else ""
            lines.append([f"{LABELS[name]}, {direction}", ratios["ms"], ratios["bytes"]])
    said = ["the article on unfused softmax", *(f"{value}x" for value in ARTICLE_SAYS.values())]
    yield (
        f"**the article's comparison**: the operator at {ARTICLE:,} tokens, times as much as tost's best backend takes"
        f"\n\n{markdown(['', 'time', 'memory'], [said, *lines])}"
    )


def _over_tokens(result: Result) -> Iterator[str]:
    for what, cell, title, key in (
        ("time", timed(base="published"), "milliseconds (speed-up over the published formula)", "ms"),
        ("peak", mebibytes, "peak MiB beyond the inputs", "bytes"),
    ):
        for op in OPS:
            for direction in ("forward", "forward+backward"):
                rows = result.of(what, op=op, direction=direction)
                fitted = {}
                for name in LABELS:
                    power = exponent(tail(points(result, what, key, op=op, direction=direction, contestant=name)))
                    fitted[name] = "" if power is None else f"{power:.2f}"
                table = pivot(rows, "N", cell, LABELS, head=tokens, last=fitted, last_head="exponent")
                title_of = f"**{op}, {direction}, over tokens**: {title}"
                yield f"{title_of}; exponent: the p of N^p that fits the largest N\n\n{table}"


def verdicts(result: Result) -> Iterator[str]:
    """Where fused softmax attention is ahead, and by how much it is behind at the end."""
    for op in OPS:
        for direction in ("forward", "forward+backward"):
            chosen = {"op": op, "direction": direction}
            theirs = points(result, "time", "ms", contestant="sdpa", **chosen)
            best: dict[int, float] = {}
            for name in OURS:
                for count, ms in points(result, "time", "ms", contestant=name, **chosen):
                    best[count] = min(ms, best.get(count, ms))
            yield f"{op}, {direction}: " + verdict(sorted(best.items()), theirs)


def verdict(ours: Points, theirs: Points) -> str:
    """One sentence on where fused softmax is ahead, from times over tokens."""
    a, b = dict(ours), dict(theirs)
    common = sorted(set(a) & set(b))
    if not common:
        return "fused softmax attention was not measured."
    at = crossing(ours, theirs)
    if at is not None:
        where = f"fused softmax attention is ahead up to about {number(at)} tokens"
    elif b[common[-1]] < a[common[-1]]:
        where = f"fused softmax attention is ahead at every length measured, up to {common[-1]:,} tokens"
    else:
        where = f"fused softmax attention is not ahead at any length measured, from {common[0]:,} tokens on"
    last = common[-1]
    return f"{where}; at {last:,} tokens it takes {times(b[last] / a[last])} as long as tost."
