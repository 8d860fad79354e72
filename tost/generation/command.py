"""`tost generate`."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tost.shipped import run_or_shipped

if TYPE_CHECKING:
    from tost.generation.text import Generation, Sampling


def generate(
    run: str,
    prompt: str = "",
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float = 0.95,
    top_k: int = 0,
    num_beams: int = 1,
    stop: str = "",
    seed: int | None = None,
    state: str | None = None,
    stream: bool = False,
    position_mode: Literal["learned", "clamped"] | None = None,
    device: str | None = None,
    stats: bool = False,
    json: bool = False,
) -> None:
    """Write on from a prompt. Ctrl-C ends the text after the current token.

    Args:
        run: folder of a finished run, stdlib (comes with the package), a folder of save_pretrained, or a model on the
            Hub
        prompt: the beginning of the text; - reads it from standard input
        max_new_tokens: most tokens to write (default: 200, or what the position table has room for)
        temperature: 0 = always the likeliest token (default: 0.8, with beams 0)
        top_p: sample among the likeliest tokens of this total probability
        top_k: sample among so many of the likeliest tokens, 0 = all
        num_beams: sequences to compare while writing; the likeliest is printed
        stop: end once this has been written
        seed: for the same text again
        state: a file to go on from, if it is there, and to keep the state in: a conversation goes on another day
        stream: print the text as it is written
        position_mode: clamped = go on past a table of learned positions
        device: cpu, cuda, ... (default: cuda where there is one)
        stats: tell speed and the size of the state on standard error
        json: print one JSON object instead of the text
    """
    if json and stream:
        raise ValueError(
            "--json prints one object at the end, so there is nothing to --stream; leave out one of the two"
        )
    text = read_prompt(prompt)
    from tost.generation.load import load_language
    from tost.generation.text import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, num_beams, stop, seed)
    model, tokenizer = load_language(str(run_or_shipped(run)), device=device, position_mode=position_mode)
    written = write(model, tokenizer, text, sampling, state, stream, quiet=json)
    if json:
        print(json_module.dumps({"prompt": text, "text": written.text, **numbers(written)}))
    if stats:
        told = numbers(written)
        size = "" if told["state_bytes"] is None else f", state {told['state_bytes']:,} bytes"
        print(f"{written.new_tokens} tokens, {written.tokens_per_second:.1f} a second{size}", file=sys.stderr)
    if written.finish == "interrupted":
        raise KeyboardInterrupt(
            f"interrupted after {written.new_tokens} tokens" + (f"; {state} is written" if state else "")
        )


def read_prompt(prompt: str) -> str:
    """The prompt, from standard input where it is -."""
    if prompt != "-":
        return prompt
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt on standard input is not UTF-8 (byte {error.start}); convert it first") from None


def write(
    model: Any, tokenizer: Any, prompt: str, sampling: Sampling, state: str | None, stream: bool, quiet: bool
) -> Generation:
    """Print the prompt and what follows it, then keep the state."""
    from tost.generation.conversation import load_conversation, save_conversation
    from tost.generation.text import generate_text

    if state and Path(state).is_dir():
        raise ValueError(f"--state keeps the state in a file, got the folder {state}; add a name to it")
    past = load_conversation(state, model) if state and Path(state).exists() else None
    if state and not past:
        check_keeps_state(model)
    if not quiet and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character

    shown = False

    def show(piece: str) -> None:
        nonlocal shown
        print(piece if shown else prompt + piece, end="", flush=True)
        shown = True

    written = generate_text(model, tokenizer, prompt, sampling, past=past, on_text=show if stream else None)
    if not quiet:
        print("" if shown else prompt + written.text, flush=True)
    if state:
        save_conversation(written.cache, written.tail, state, model)
    return written


def check_keeps_state(model: Any) -> None:
    """ValueError unless the model is one whose state can be kept."""
    from tost.models.language import ToSTConfig

    if not isinstance(model.config, ToSTConfig):
        raise ValueError(f"--state keeps the state of a ToST, got a {model.config.model_type}; leave it out")


def numbers(written: Generation) -> dict[str, Any]:
    """What --json and --stats tell."""
    from tost.models.language import state_nbytes

    return {
        "prompt_tokens": written.prompt_tokens,
        "new_tokens": written.new_tokens,
        "finish": written.finish,
        "seconds": round(written.seconds, 3),
        "tokens_per_second": round(written.tokens_per_second, 1),
        "state_bytes": None if written.cache is None else state_nbytes(written.cache),
    }
