"""Long sequences on many GPUs, on paper: `python -m benchmarks.scaling table`; what gloo does here: `... measure`.

docs/scaling.md has the formulae, where the constants are from, and the tables, which tests compare with this file.
"""

# G processes, R of them share a sequence, F share the weights; N tokens, C features, H heads, L layers, V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jsonargparse import auto_cli

from benchmarks.gloo import measure
from tost.bench.tables import markdown, number, times, tokens


@dataclass(frozen=True)
class Model:
    """A causal model of width C: 12 C^2 weights a layer, of which 8 C^2 (softmax) or 10 C^2 (ToST) in the MLP."""

    dim: int
    layers: int
    heads: int
    vocabulary: int = 32000

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        return 12 * self.dim**2

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer + self.vocabulary * self.dim


@dataclass(frozen=True)
class Cluster:
    """Seconds, bytes and operations, of one process where nothing else is said."""

    machine: int  # processes of a machine
    base: float  # s, of any collective
    near: float  # s, of a ring's step within a machine
    far: float  # s, of a ring's step to the next machine
    inside: float  # bytes/s one way, within a machine
    outside: float  # bytes/s one way, to other machines
    products: float = 0.0  # operations/s of matrix products, as used
    attention: float = 0.0  # operations/s of fused softmax attention, forward and backward
    memory: float = 0.0  # bytes/s of the operator
    room: float = 0.0  # bytes

    def ring(self, size: int, sent: float, spread: int = 1, rounds: int = 1) -> float:
        """Seconds of a ring of `size` processes, every `spread`-th, that passes `sent` bytes at each of its steps.

        rounds: 1 for a gather or a scattered sum, 2 for a sum.
        """
        if size == 1:
            return 0.0
        together = max(1, min(size, self.machine // spread))  # of the group, in one machine
        machines = -(-size // together)
        fast = self.inside if machines == 1 else min(self.inside, together * self.outside)
        latency = (size - machines) * self.near + (machines - 1) * self.far
        return self.base + rounds * (latency + (size - 1) * sent / fast)


MODELS = {"1b": Model(2048, 24, 16), "7b": Model(4096, 32, 32), "70b": Model(8192, 80, 64)}
H100 = Cluster(8, 8.4e-6, 3.4e-6, 9.6e-6, 450e9, 50e9, 0.4 * 989e12, 600e12, 0.7 * 3.35e12, 80e9)
GPUS = (8, 64, 512, 4096)
LENGTHS = (2**20, 2**23, 2**26)


class Step(NamedTuple):
    """A training step on one sequence of every group of R processes."""

    seconds: float
    context: float  # of them, in which processes wait for each other's sums, keys or values
    weights: float  # of them, in which they wait for weights and gradients
    sent: float  # bytes that a process sends to share sequences


def shards(cluster: Cluster, G: int, R: int) -> int:
    """F, how many processes share the weights: those of a sequence, or of a machine."""
    return min(G, max(R, cluster.machine))


def memory(model: Model, cluster: Cluster, G: int, R: int, N: int) -> float:
    """Bytes of a process: weights, gradients, averages (16 a parameter), inputs of all layers, the inside of one."""
    return 16 * model.parameters / shards(cluster, G, R) + N / R * model.dim * (2 * model.layers + 34)


def smallest(model: Model, cluster: Cluster, G: int, N: int) -> int | None:
    """R, the fewest processes in whose memory a sequence fits: powers of 2; None if it does not."""
    sizes = [2**i for i in range(G.bit_length()) if G % 2**i == 0]
    return next((R for R in sizes if memory(model, cluster, G, R, N) <= cluster.room), None)


def weight_wait(model: Model, cluster: Cluster, G: int, R: int, compute: float) -> float:
    """Seconds of a layer in which its weights and gradients are awaited, beyond what its products take."""
    F, part = shards(cluster, G, R), model.layer / shards(cluster, G, R)
    moved = 2 * cluster.ring(F, 2 * part) + cluster.ring(F, 4 * part)  # gathered twice in bf16, scattered in float32
    moved += cluster.ring(G // F, 4 * part / (G // F), spread=F, rounds=2)
    return max(0.0, moved - compute)


def tost(model: Model, cluster: Cluster, G: int, R: int, N: int) -> Step:
    """Causal token statistics: six collectives a layer, two each forward, again for recomputing, and backward."""
    here, D = N / R, model.dim // model.heads
    sizes = (8 * (model.dim + 1), 8 * model.heads * (D + 1))  # bytes of the energies with a count, and of the others
    context = 3 * sum(cluster.ring(R, size) for size in sizes) * (R > 1)
    passes = 28 if R > 1 else 14  # of w's bytes: 4 forward, again, 6 backward; the operator runs twice
    compute = here * (8 * model.layer / cluster.products + passes * 2 * model.dim / cluster.memory)
    return step(model, cluster, G, R, N, compute, context, 3 * (R - 1) * sum(sizes))


def ring_attention(model: Model, cluster: Cluster, G: int, R: int, N: int) -> Step:
    """Causal softmax attention whose keys and values go round, balanced, while the products of the last are formed."""
    here = N / R
    compute = here * 8 * model.layer / cluster.products
    scores = here * 4.5 * 2 * N * model.dim / cluster.attention  # forward, again, 2.5 times backward; half is masked
    passed = 2 * here * model.dim * 2  # bytes of keys and values in bf16: forward, again, and twice that backward
    moving = [cluster.ring(R, size) for size in (passed, passed, 2 * passed)]
    wait = max(0.0, sum(moving) - scores * (R - 1) / R)
    return step(model, cluster, G, R, N, compute + scores, wait, 4 * (R - 1) * passed)


def step(model: Model, cluster: Cluster, G: int, R: int, N: int, compute: float, context: float, sent: float) -> Step:
    """All layers and the head, from what one layer computes, awaits and sends."""
    weights = weight_wait(model, cluster, G, R, compute)
    head = N / R * 8 * model.vocabulary * model.dim / cluster.products
    L = model.layers
    return Step(L * (compute + context + weights) + head, L * context, L * weights, L * sent)


def table(model: str = "7b", gpus: tuple[int, ...] = GPUS, lengths: tuple[int, ...] = LENGTHS) -> None:
    """Print a training step on more and more GPUs, then one sequence on more and more of them, as Markdown.

    Args:
        model: 1b, 7b or 70b
        gpus: how many H100, in machines of 8
        lengths: tokens of a sequence
    """
    if model not in MODELS:
        raise SystemExit(f"unknown model {model!r}; choose one of {', '.join(MODELS)}")
    if not gpus or not lengths or min(*gpus, *lengths) < 1:
        raise SystemExit(f"expected GPUs and tokens from 1, got {gpus} and {lengths}")
    print(plans(MODELS[model], H100, gpus, lengths), strong(MODELS[model], H100, lengths[0]), sep="\n\n")


def plans(model: Model, cluster: Cluster, gpus: tuple[int, ...], lengths: tuple[int, ...]) -> str:
    """The smallest R that fits, the other processes for other sequences; ToST beside ring attention."""
    lines = []
    for N in lengths:
        for G in gpus:
            if (R := smallest(model, cluster, G, N)) is not None:
                ours, theirs = tost(model, cluster, G, R, N), ring_attention(model, cluster, G, R, N)
                lines.append([
                    tokens(N), f"{G:,}", f"{G // R} x {R} ({shards(cluster, G, R)})",
                    number(memory(model, cluster, G, R, N) / 1e9), f"{number(N / ours.seconds * G / R / 1e3)}k",
                    number(ours.seconds), percent(ours.context, ours), percent(ours.weights, ours),
                    number(ours.sent / 1e9), number(theirs.seconds), number(theirs.sent / 1e9),
                    times(theirs.seconds / ours.seconds),
                ])  # fmt: skip
    if not lines:
        raise SystemExit("no sequence of these lengths fits into these GPUs' memory; take more GPUs, or shorter ones")
    head = ["tokens", "GPUs", "data x context (shards)", "GB", "tokens/s", "step, s", "waits for sums", "for weights"]
    return markdown([*head, "GB sent", "softmax: step, s", "GB sent", "step ratio"], lines)


def strong(model: Model, cluster: Cluster, N: int) -> str:
    """One sequence on more and more GPUs."""
    lines, R = [], smallest(model, cluster, max(GPUS), N) or max(GPUS)
    first = tost(model, cluster, R, R, N).seconds * R
    for R in [R * 2**i for i in range(8)]:
        ours, theirs = tost(model, cluster, R, R, N), ring_attention(model, cluster, R, R, N)
        lines.append([
            f"{R:,}", f"{N // R:,}", number(ours.seconds), percent(ours.context, ours), percent(ours.weights, ours),
            f"{first / R / ours.seconds:.0%}", number(theirs.seconds),
        ])  # fmt: skip
    head = [f"GPUs for one sequence of {tokens(N)}", "tokens a GPU", "step, s", "waits for sums", "for weights"]
    return markdown([*head, "efficiency", "softmax: step, s"], lines)


def percent(part: float, of: Step) -> str:
    """0.04 %, 12 %."""
    return f"{number(100 * part / of.seconds)} %"


if __name__ == "__main__":
    auto_cli([table, measure], prog="python -m benchmarks.scaling")
