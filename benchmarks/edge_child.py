"""One graph timed in a process of its own, under a memory limit: what benchmarks/edge.py starts. No torch, no tost.

The limit is on the address space (RLIMIT_AS), set before the runtime is loaded, so that the interpreter, numpy, the
runtime, the weights and the activations all count.
"""

import json
import os
import resource
import sys
import time


def main(runtime: str, path: str, shapes: str, megabytes: int, rounds: int) -> dict[str, float]:
    """Milliseconds (median), MiB resident at the most.  shapes: JSON, name -> [dtype, sizes]."""
    if megabytes:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
    import numpy as np

    chance = np.random.default_rng(0)
    inputs = {}
    for name, (dtype, sizes) in json.loads(shapes).items():
        inputs[name] = np.ones(sizes, dtype) if dtype == "int64" else chance.standard_normal(sizes, np.float32)
        inputs[name] = inputs[name].astype(dtype, copy=False)
    call = opened(runtime, path)
    call(inputs)
    times = []
    for _ in range(rounds):
        start = time.process_time()  # of one thread that never sleeps: other processes don't count
        call(inputs)
        times.append(time.process_time() - start)
    return {"ms": 1e3 * sorted(times)[len(times) // 2], "mib": peak()}


def peak():
    """MiB resident at the most; rusage would tell the parent's, which a process starts with, where that was more."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def opened(runtime, path):
    """A function of inputs by name, on one thread."""
    if runtime == "openvino":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        return openvino.Core().compile_model(path, "CPU", settings)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # an arena asks for more than it needs, which a small device hasn't got
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"):
        os.environ[variable] = "1"
    runtime, path, shapes, megabytes, rounds = sys.argv[1:]
    try:
        print(json.dumps(main(runtime, path, shapes, int(megabytes), int(rounds))))
    except Exception as error:  # a runtime's own kinds: bad_alloc among them
        print(json.dumps({"error": " ".join(str(error).split())[:300] or type(error).__name__}))
