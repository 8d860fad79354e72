"""`tost quantize`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass
class Images:
    """Where the images of a vision run are, if not where its recipe says.

    Args:
        path: file or folder
    """

    path: str | None = None


def quantize(
    run: str,
    bits: int = 8,
    gates: bool = False,
    linear: Literal["dynamic", "weight", "none"] = "dynamic",
    out: str | None = None,
    data: Images = Images(),  # noqa: B008
    measure: bool = True,
) -> None:
    """A run in eight bits, saved if its own evaluation loses at most 0.3 points of accuracy or 0.01 nats a token.

    Prints quality, bytes, working memory and time beside float32, bfloat16 and torchao alone. If too much is lost, the
    table is printed, nothing is written, and the exit code is 2.

    Args:
        run: folder of a finished run on images or text, or flowers or stdlib, which come with the package
        bits: 8
        gates: the operator of token statistics in eight bits too (TSSA and causal TSSA as published): integers from w
            to the gate; for processors without floating point, on others slower than the float kernels
        linear: the linear layers, by torchao: dynamic = int8 activations, rounded by token, times int8 weights;
            weight = int8 weights, float activations; none = as they are
        out: the new folder (default: RUN-int8 beside the run; of flowers and stdlib runs/NAME-int8)
        data: vision: --data.path, where the images are not where the recipe says
        measure: false = the qualities alone
    """
    from tost.deploy.quantize import QuantizationRefused, quantize_run

    given = {name: value for name, value in asdict(data).items() if value is not None}
    try:
        made = quantize_run(run, out=out, linear=linear, gates=gates, bits=bits, data=given, measure=measure)
    except QuantizationRefused as refused:
        print(refused.table)
        raise
    print(f"{made['table']}\n\nsaved in {made['folder']}")
