"""Text from a language model: load it, write on from a prompt or a saved state, serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tost.generation.chunked import prefill
    from tost.generation.load import is_language, load_language
    from tost.generation.text import Generation, Sampling, generate_text

_HOME = {
    "is_language": "tost.generation.load",
    "load_language": "tost.generation.load",
    "prefill": "tost.generation.chunked",
    "Generation": "tost.generation.text",
    "Sampling": "tost.generation.text",
    "generate_text": "tost.generation.text",
}

__all__ = ["Generation", "Sampling", "generate_text", "is_language", "load_language", "prefill"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tost.generation' has no attribute {name!r}")
