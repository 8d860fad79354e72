"""A thousand sensors through one small model, in one process: what a step, a save and a restore take.

python examples/sensors.py [STREAMS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from tost.models import SequenceConfig, ToSTSequence
from tost.models.streaming import Streaming

FEATURES, ROUNDS = 8, 15


def timed(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median milliseconds of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def main(count: int = 1000) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = SequenceConfig(
        in_features=FEATURES, num_classes=4, dim=64, num_layers=4, mlp_dim=128, causal=True, decay=0.999
    )
    model = ToSTSequence(config).eval()
    names = [f"sensor-{i}" for i in range(count)]
    streams = Streaming(model)
    streams.join(names)
    series = torch.randn(count, 400, FEATURES)

    # sensors report when they like: every push some steps of some of them
    seen, rng = [0] * count, torch.Generator().manual_seed(1)
    while min(seen) < 300:
        steps = torch.randint(0, 40, (count,), generator=rng).tolist()
        steps = [min(n, 300 - done) for n, done in zip(steps, seen)]
        push = {name: series[i, seen[i] : seen[i] + n] for i, (name, n) in enumerate(zip(names, steps)) if n}
        streams.push(push)
        seen = [done + n for done, n in zip(seen, steps)]
    last = streams.push({name: series[i, 300] for i, name in enumerate(names)})
    with torch.no_grad():
        whole = model(series[::100, :301])
    error = max(float((last[name].logits - whole[i]).abs().max()) for i, name in enumerate(names[::100]))
    print(f"{count:,} streams, {sum(seen) + count:,} steps; against one pass over a whole series: {error:.1e}")

    one = {names[0]: series[0, 301]}
    every = {name: series[i, 301] for i, name in enumerate(names)}
    print(f"one step of one stream        {timed(lambda: streams.push(one)):8.2f} ms")
    print(f"one step of every stream      {timed(lambda: streams.push(every)):8.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "streams.safetensors"
        print(f"save all streams              {timed(lambda: streams.save(path)):8.2f} ms")
        print(f"restore all streams           {timed(lambda: Streaming.load(model, path)):8.2f} ms")
        print(f"a stream on the disk          {path.stat().st_size / count / 1e3:8.2f} kB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
