"""Very long streams: do the sums stay exact, do memberships tell the heads apart, do models still read them?"""

# N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tost.bench import streams
from tost.bench.gate import Check
from tost.bench.presence import absentees
from tost.bench.result import Result
from tost.bench.tables import markdown, number, pivot, tokens, unique
from tost.ops import causal_membership, causal_tssa

LIMIT = 1e-5  # of the largest relative error of a sum, as the operator's contract has it
BELOW = 0.02  # nats by which the last stretch of a stream may happen to be easier than expected
H, D = 2, 2
CHUNK, LAST = 4096, 1000
FEEDS = {"call": "one call", "chunks": f"calls of {CHUNK:,}", "tokens": f"the last {LAST:,} one at a time"}
SUMS = ("energy", "moment", "mass")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BACKENDS = ("eager", "cpu", "triton")
KEPT = {
    "paper": "the paper",
    "forgetting": "forgetting, half-life 1,024",
    "temperature": "temperature t n (length-aware, power 1)",
}


class Plan(NamedTuple):
    """Tokens of the sums, lengths at which memberships are looked at, and the models that read long streams."""

    N: int
    lengths: tuple[int, ...]
    kept: tuple[str, ...]
    steps: int  # of training
    seeds: int
    rows: int  # streams that are read, of so many tokens
    read: int


def make_plan(quick: bool) -> Plan:
    """The sizes of a run."""
    if quick:
        return Plan(10**6, (2**8, 2**12, 2**16), streams.QUICK, 120, 1, 4, 2**16)
    return Plan(10**7, (2**8, 2**11, 2**14, 2**17, 2**20), tuple(streams.KEPT), 300, 3, 8, 2**16)


def measure(result: Result) -> None:
    """The sums in every precision of the input; the memberships; what models make of long streams."""
    s, plan = result.settings, make_plan(result.settings.quick)
    exactness(result, plan)
    result.add("dilution", dilution(plan.lengths, s.device))
    result.add("streams", streams.by_position(plan.kept, plan.steps, plan.seeds, plan.rows, plan.read, s.device))
    rows = [row for row in result.of("streams") if row["end"] == plan.read]
    result.check([Check("models below the least possible loss", max(r["floor"] - r["loss"] for r in rows), BELOW)])


@torch.no_grad()
def exactness(result: Result, plan: Plan) -> None:
    """Sums after plan.N tokens, by backend, way of feeding and precision, against float64."""
    s = result.settings
    result.absent = {name: why for name, why in absentees(s).items() if name in BACKENDS}
    present = [name for name in BACKENDS if name not in result.absent]
    w = stream(plan.N).to(s.device)
    for dtype in tqdm(DTYPES, unit="dtype", desc="running sums", leave=False):
        x, temperature = w.to(DTYPES[dtype]), torch.ones(H, device=s.device)
        exact = causal_tssa(x.double(), temperature.double(), return_state=True, backend="eager")[1]
        found = {(name, how): ends(x, temperature, name, how) for name in present for how in FEEDS}
        found["plain", "call"] = plain_sums(x, temperature)
        for (name, how), sums in found.items():
            worst = max(float(((a.double() - b) / b).abs().max()) for a, b in zip(sums, exact[:3]))
            result.add("drift", [{"contestant": name, "feed": how, "dtype": dtype, "N": plan.N, "worst": worst}])
            if name != "plain":
                result.check([Check(f"{name} {dtype}, {FEEDS[how]}: sums", worst, LIMIT)])


def stream(N: int) -> Tensor:
    """[1, N, H, D] of 0.5 to 1.5: sums that only grow, where small errors add up."""
    return torch.rand(1, N, H, D, generator=torch.Generator().manual_seed(0)) + 0.5


def ends(x: Tensor, temperature: Tensor, backend: str, how: str) -> tuple[Tensor, ...]:
    """energy, moment and mass after all tokens, fed as FEEDS says."""
    N = x.shape[1]
    sizes = {"call": [N], "chunks": [CHUNK] * (N // CHUNK) + [N % CHUNK], "tokens": [N - LAST, *[1] * LAST]}[how]
    state = None
    for part in x.split([size for size in sizes if size], dim=1):
        _, state = causal_tssa(part, temperature, state=state, return_state=True, backend=backend)
    assert state is not None
    return state[:3]


def plain_sums(x: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
    """What a float32 state is after one token at a time: numpy's accumulate adds them just so."""
    p = x[0].float().square().cpu().numpy()
    a = np.add.accumulate(p, axis=0, dtype=np.float32)
    score = torch.from_numpy((p / a).sum(-1))
    pi = (temperature.cpu() * score).softmax(-1).numpy()
    moment = np.add.accumulate(pi[..., None] * p, axis=0, dtype=np.float32)[-1]
    sums = (a[-1], moment, np.add.accumulate(pi, axis=0, dtype=np.float32)[-1])
    return tuple(torch.from_numpy(part)[None].to(x.device) for part in sums)


@torch.no_grad()
def dilution(lengths: tuple[int, ...], device: str) -> Iterator[dict[str, Any]]:
    """The share that a token's own head takes, and the memberships' entropy, over the last quarter of N tokens.

    Every token is strong (deviation 1) in the 16 features of one of 4 heads, drawn at random, and weak (0.3) elsewhere.
    """
    generator = torch.Generator().manual_seed(1)
    for N in tqdm(lengths, unit="length", desc="memberships", leave=False):
        own = torch.randint(4, (N,), generator=generator)
        w = torch.randn(1, N, 4, 16, generator=generator) * 0.3
        w[0, torch.arange(N), own] /= 0.3
        w, own = w.to(device), own.to(device)
        positions = torch.arange(1, N + 1, device=device, dtype=torch.float32)
        ones = torch.ones(4, device=device)
        calls: dict[str, dict[str, Any]] = {
            "paper": {"temperature": ones},
            "forgetting": {"temperature": ones, "decay": ones * 2 ** (-1 / 1024)},
            "temperature": {"temperature": positions[None, :, None] * ones},
        }
        for name, arguments in calls.items():
            pi = causal_membership(w, **arguments)[0, 3 * N // 4 :]
            share = pi.gather(1, own[3 * N // 4 :, None]).mean()
            entropy = torch.special.entr(pi).sum(-1).mean() / np.log(4)
            yield {"kept": name, "N": N, "own": float(share), "entropy": float(entropy)}


def report(result: Result) -> list[str]:
    """A table of errors for each precision of the input, and one of the memberships."""
    rows = result.of("drift")
    labels: dict[Any, str] = {
        (name, how): f"{name}, {FEEDS[how]}" for name, how in unique((r["contestant"], r["feed"]) for r in rows)
    }
    labels |= {("plain", "call"): "a plain float32 state, one token at a time"}
    shown = [{**r, "key": (r["contestant"], r["feed"])} for r in rows]
    told = f"after {rows[0]['N']:,} tokens, against float64; tokens in"
    parts = [
        f"largest relative error of energy, moment and mass {told}\n\n"
        + pivot(shown, "dtype", lambda r: f"{r['worst']:.1e}", labels, row="key")
    ]
    found = result.of("dilution")
    lengths = unique(r["N"] for r in found)
    lines = []
    for name, label in KEPT.items():
        line = {r["N"]: r for r in found if r["kept"] == name}
        lines.append([label, *(f"{number(line[n]['own'])} ({number(line[n]['entropy'])})" for n in lengths)])
    head = "share of a token's own head among four (entropy of the memberships, 1 = uniform), by tokens seen"
    return [*parts, f"{head}\n\n" + markdown(["", *map(tokens, lengths)], lines), *read_streams(result)]


def read_streams(result: Result) -> list[str]:
    """A table for each source: nats above the least possible loss, by position; the mean over seeds and their range."""
    rows, parts = result.of("streams"), []
    trained = f"after {make_plan(result.settings.quick).steps} steps on stretches of {streams.TRAINED} tokens"
    for source, change in streams.SOURCES.items():
        name = "whose regime changes every 64 tokens or so" if change else "of one regime"
        lines = []
        for kept in unique(r["kept"] for r in rows):
            line: dict[str, list[float]] = {}
            for r in result.of("streams", source=source, kept=kept):
                line.setdefault(f"to {tokens(r['end'])}", []).append(r["loss"] - r["floor"])
            lines.append([streams.KEPT[kept], *map(mean_and_range, line.values())])
        head = f"a stream {name}: nats a token above the least possible loss, by position; {trained}"
        parts.append(f"{head}\n\n" + markdown(["", *line], lines))
    return parts


def mean_and_range(values: list[float]) -> str:
    """0.123 (0.12 to 0.126), without the range for one value."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
