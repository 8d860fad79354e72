"""Errors as the page tells them: one sentence, never a trace."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any

import gradio as gr


def kindly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function (or generator) with its errors told in the page; those that nobody expected also in the terminal."""
    if inspect.isgeneratorfunction(function):

        @wraps(function)
        def generate(*given: Any) -> Iterator[Any]:
            with telling():
                yield from function(*given)

        return generate

    @wraps(function)
    def call(*given: Any) -> Any:
        with telling():
            return function(*given)

    return call


@contextmanager
def telling() -> Iterator[None]:
    """Turns errors into the page's own."""
    try:
        yield
    except gr.Error:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise said(" ".join(str(error).split())) from None
    except MemoryError:
        raise said("There is not enough memory for this; try a smaller size.") from None
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        print(f"tost app: {type(error).__name__}: {told}", file=sys.stderr, flush=True)
        raise said("Something went wrong here; the terminal says what.") from None


def said(words: str) -> gr.Error:
    """A message in the page's corner."""
    return gr.Error(escape(words), title="That did not work", print_exception=False)
