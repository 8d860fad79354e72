"""Ctrl-C between two tokens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteria


class Interrupt(StoppingCriteria):
    """Ends the generation once it was asked to."""

    asked = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self.asked, dtype=torch.bool, device=input_ids.device)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """An Interrupt that the first Ctrl-C asks to stop; the second raises KeyboardInterrupt as always."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: Any) -> None:
        interrupt.asked = True
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
