"""Compiled random numbers that are the same on every machine and in every version: splitmix64.

Sequences are generated from them, so a seed names a data set. Numba is imported with this file: import it inside
functions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def jit(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compiles a function for `signature` alone, when its file is imported; kept on the disk where that is writable."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(signature, cache=True, nogil=True)(function)
        except RuntimeError as error:
            if "locator" not in str(error):
                raise
            return numba.njit(signature, nogil=True)(function)

    return compiled


def start(*numbers: int) -> np.ndarray:
    """A state [1] uint64 of the generator that differs wherever `numbers` (seed, split, index, ...) differ."""
    state = np.zeros(1, dtype=np.uint64)
    for number in numbers:
        state[0] ^= np.uint64(number & (2**64 - 1))
        state[0] = bits(state)
    return state


@jit("uint64(uint64[::1])")
def bits(state: Any) -> Any:
    """64 random bits; moves `state` on (Steele, Lea and Flood 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit("float64(uint64[::1])")
def uniform(state: Any) -> Any:
    """A number in [0, 1)."""
    return np.float64(bits(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit("int64(uint64[::1], int64)")
def below(state: Any, count: Any) -> Any:
    """A whole number in 0 .. count - 1, count < 2^32."""
    return np.int64(((bits(state) >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32))
