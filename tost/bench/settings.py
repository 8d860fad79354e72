"""What every group of `tost bench` is asked: on which device, in which precision, how thoroughly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """rounds: how often each contestant takes its turn, None for what the group thinks right."""

    device: str = "cpu"
    dtype: str = "float32"
    quick: bool = False
    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"bench expects a dtype of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"bench expects at least 1 round, got {self.rounds}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"bench expects the device cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"bench --device cuda needs a GPU that torch sees, and torch {torch.__version__} sees none; "
                "use --device cpu, or install a torch with CUDA (`tost doctor` shows what is there)"
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch's."""
        return DTYPES[self.dtype]

    @property
    def half(self) -> bool:
        """Whether numbers have 16 bits."""
        return self.dtype != "float32"
