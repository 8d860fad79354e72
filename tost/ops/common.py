"""What every backend shares: the constants of the published operator and the type of its sums."""

import torch

FULL_FLOOR = 1e-24  # of the energy: torch's normalize clamps the norm at 1e-12
CAUSAL_FLOOR = 1e-12  # of the running energy
MASS_EPS = 1e-8  # added to the mass before it divides


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: half-precision squares overflow, and their sums drown."""
    return torch.float64 if dtype == torch.float64 else torch.float32
