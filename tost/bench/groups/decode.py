"""One more token: of a whole model over the context, and of the operator alone."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from tost.bench import published
from tost.bench.contestants import LABELS as OPERATORS
from tost.bench.contestants import OURS, Case
from tost.bench.gate import Check, relative_error, tolerance
from tost.bench.graph import check_steps, graph_step, static_step
from tost.bench.growth import CHUNK
from tost.bench.language_gate import check_models
from tost.bench.language_models import (
    LABELS,
    Size,
    cache_nbytes,
    gpt2_cache,
    gpt2_model,
    published_model,
    random_text,
    size_of,
    tost_model,
)
from tost.bench.measure import Call, paired, ratio
from tost.bench.prefill import read
from tost.bench.presence import absentees
from tost.bench.result import Result
from tost.bench.roofline import decode_bytes
from tost.bench.tables import number, pivot, timed, times, tokens
from tost.models.language import state_nbytes
from tost.ops import TSSAState, causal_tssa

MARGIN = 1024  # positions of GPT-2 beyond the context: the steps that are timed take some
SHAPE = (1, 12, 64)  # B, H, D of a layer of the Base model
CONTEXT = 512  # tokens that the published formula goes over again for each new one
NAMES = {**LABELS, "tost_graph": "tost, CUDA graph"}


class Plan(NamedTuple):
    """Size of the models, contexts (the published model is timed at the first), rounds, seconds a comparison."""

    name: str
    size: Size
    contexts: tuple[int, ...]
    rounds: int
    seconds: float


def make_plan(quick: bool) -> Plan:
    """The sizes of a run."""
    if quick:
        return Plan("nano", size_of("nano", vocab=4096), (128, 512, 2048), 5, 4.0)
    return Plan("base", size_of("base"), (512, 2048, 8192, 32768), 9, 40.0)


def measure(result: Result) -> None:
    """The operator's step, then the models', each checked first."""
    settings, plan = result.settings, make_plan(result.settings.quick)
    plan = plan._replace(rounds=settings.rounds or plan.rounds)
    result.absent = {n: why for n, why in absentees(settings).items() if n in OURS}
    with torch.no_grad():
        if not measure_operator(result, plan):
            return
    if not result.check(check_models(plan.size, settings.device)):
        return
    with torch.inference_mode():
        measure_models(result, plan)


def measure_operator(result: Result, plan: Plan) -> bool:
    """A causal step with its state, the call's overhead included, and the published formula over its context."""
    s, (B, H, D) = result.settings, SHAPE
    options: dict[str, Any] = {"device": s.device, "dtype": s.torch_dtype}
    w, temperature = torch.randn(B, CONTEXT, H, D, **options), torch.ones(H, **options)
    whole = causal_tssa(w.double(), temperature.double(), backend="eager")
    calls: dict[str, Call] = {}
    case = Case("causal", False, B, 1, H, D, s.dtype, s.device)
    for name in [n for n in OURS if n not in result.absent]:
        calls[name], got = _operator_step(w, temperature, name)
        error = relative_error(got, whole[:, -1:])
        if not result.check([Check(f"{name} step after {CONTEXT} tokens: y", error, tolerance(name, case, "y"))]):
            return False
    first = w.transpose(1, 2).contiguous()
    calls["published"] = lambda: published.causal(first, temperature[:, None])
    samples = paired(calls, plan.rounds, plan.seconds, plan.rounds, s.device)
    for name, taken in samples.items():
        record: dict[str, Any] = {"contestant": name, "us": 1e6 * median(taken)}
        if name != "published":
            record |= {"state_gb_per_s": decode_bytes(B, H, D) / median(taken) / 1e9}
        result.add("operator", [record | {"speed_up": ratio(samples["published"], taken)}])
    return True


def _operator_step(w: Tensor, temperature: Tensor, backend: str) -> tuple[Call, Tensor]:
    """The call for the last token of w, after all before it, and what it gives."""
    state: TSSAState
    _, state = causal_tssa(w[:, :-1], temperature, return_state=True, backend=backend)
    last = w[:, -1:].contiguous()

    def step() -> tuple[Tensor, TSSAState]:
        return causal_tssa(last, temperature, state=state, return_state=True, backend=backend)

    return step, step()[0]


def measure_models(result: Result, plan: Plan) -> None:
    """First ours at all contexts and the published model, taking turns; then ours and GPT-2 with its two caches."""
    s = result.settings
    ours = tost_model(plan.size, None).to(s.device, s.torch_dtype)
    steps: dict[int, Call] = {}
    states: dict[int, int] = {}
    for context in tqdm(plan.contexts, unit="context", desc="reading", leave=False):
        cache = read(ours, random_text(plan.size, context, s.device), CHUNK)
        steps[context], states[context] = _step(ours, cache, s.device), state_nbytes(cache)
    if not measure_growth(result, plan, ours, steps, states):
        return
    rival = gpt2_model(plan.size, max(plan.contexts) + MARGIN).to(s.device, s.torch_dtype)
    for context in tqdm(plan.contexts, unit="context", desc="beside GPT-2", leave=False):
        result.add("decode", _beside_gpt2(result, plan, context, steps[context], rival))


def measure_growth(result: Result, plan: Plan, model: Any, steps: dict[int, Call], states: dict[int, int]) -> bool:
    """Our steps at all contexts, and at the first the published model and a CUDA graph; False if that is wrong."""
    s, first = result.settings, plan.contexts[0]
    theirs = published_model(plan.size, first).to(s.device, s.torch_dtype)
    ids = random_text(plan.size, first, s.device)
    calls: dict[Any, Call] = {**steps, "published": lambda: theirs.next_logits(ids).argmax(-1)}
    if s.device == "cuda" and not _add_graph(result, plan, model, calls):
        return False
    samples = paired(calls, plan.rounds, plan.seconds, plan.rounds, s.device)
    for key, taken in samples.items():
        name, context = (key, first) if isinstance(key, str) else ("tost", key)
        kept = 0 if name == "published" else states[context]
        record = {"contestant": name, "context": context, "ms": 1e3 * median(taken), "state_bytes": kept}
        record["over_tost"] = ratio(taken, samples[context])
        if name == "tost":
            record["over_first"] = ratio(taken, samples[first])
        result.add("decode", [record])
    return True


def _step(model: Any, cache: Any, device: str) -> Call:
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    return lambda: token.copy_(model(token, past_key_values=cache).logits[:, -1:].argmax(-1))


def _add_graph(result: Result, plan: Plan, model: Any, calls: dict[Any, Call]) -> bool:
    """The step as a CUDA graph, after its states were compared with those of the step without; False if they differ."""
    ids = random_text(plan.size, plan.contexts[0], result.settings.device)
    caches = [read(model, ids, CHUNK) for _ in range(2)]
    places = [torch.zeros(1, 1, dtype=torch.int64, device=ids.device) for _ in range(2)]
    try:
        graph, plain = graph_step(model, caches[0], places[0]), static_step(model, caches[1], places[1])
    except RuntimeError as error:
        result.absent["tost_graph"] = f"cannot be captured ({' '.join(str(error).split())[:120]})"
        return True
    for _ in range(3):  # the graph's warm-up advanced its state by three tokens; capturing runs nothing
        plain()
    calls["tost_graph"] = graph
    return result.check([check_steps((graph, caches[0]), (plain, caches[1]), "CUDA graph of a step: states")])


def _beside_gpt2(result: Result, plan: Plan, context: int, ours: Call, rival: Any) -> Iterator[dict[str, Any]]:
    calls, caches = {"tost": ours}, {}
    for name, static in (("gpt2_dynamic", False), ("gpt2_static", True)):
        caches[name] = gpt2_cache(rival, context, static)
        calls[name] = gpt2_step(rival, caches[name], context, static)
    sizes = {name: cache_nbytes(cache) for name, cache in caches.items()}
    samples = paired(calls, plan.rounds, plan.seconds / 3, plan.rounds, result.settings.device)
    for name in caches:
        record = {"contestant": name, "context": context, "ms": 1e3 * median(samples[name])}
        yield {**record, "state_bytes": sizes[name], "over_tost": ratio(samples[name], samples["tost"])}


def gpt2_step(model: Any, cache: Any, context: int, static: bool) -> Call:
    """A step of GPT-2 after a cache of `context` tokens."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)

    def step() -> None:
        if static:  # the same place again
            for layer in cache.layers:
                layer.cumulative_length.fill_(context)
        token.copy_(model(token, past_key_values=cache).logits[:, -1:].argmax(-1))

    return step


def report(result: Result) -> list[str]:
    """The model's step, what is kept, the operator's step."""
    plan, rows = make_plan(result.settings.quick), result.of("decode")
    flat = [r for r in rows if r["contestant"] == "tost"]
    growth = ", ".join(f"{r['over_first']:.2f}" for r in flat)
    size = plan.size
    model = f"{plan.name}: {size.layers} layers, {size.dim} features, {size.heads} heads, vocabulary {size.vocab:,}"
    recomputed = next(r for r in rows if r["contestant"] == "published")
    return [
        f"**decoding** ({model}), milliseconds for one more token after a context (times as long as tost there)\n\n"
        + pivot(rows, "context", timed("over_tost", "tost"), NAMES, head=tokens),
        f"tost at {flat[0]['context']:,} and more tokens, over the first: {growth}. The published model, which goes "
        f"over its {recomputed['context']:,} tokens again, takes {times(recomputed['over_tost'])} as long.",
        "**kept between two tokens**, KiB\n\n"
        + pivot(rows, "context", lambda r: number(r["state_bytes"] / 1024), NAMES, head=tokens),
        f"**the operator's step**, B{SHAPE[0]} N1 H{SHAPE[1]} D{SHAPE[2]} with state, microseconds (speed-up over the "
        f"published formula, which goes over {CONTEXT} tokens again)\n\n"
        + pivot(result.of("operator"), lambda _: "us", timed(base="published", key="us"), OPERATORS),
    ]
