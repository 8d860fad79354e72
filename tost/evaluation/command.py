"""`tost evaluate`."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tost.shipped import run_or_shipped


@dataclass
class Source:
    """Where the data of a run on images or sequences are, if not where its recipe says.

    Args:
        path: file or folder
        workers: processes that read them
    """

    path: str | None = None
    workers: int | None = None


def evaluate(
    run: str,
    data: Source | str = Source(),  # noqa: B008
    path: str | None = None,
    context: Literal["sliding", "streaming"] | None = None,
    length: int | None = None,
    stride: int | None = None,
    chunk: int | None = None,
    position_mode: Literal["learned", "clamped"] | None = None,
    batch_size: int = 256,
    device: str | None = None,
    json: bool = False,
) -> None:
    """How good a run is on what it has not seen: accuracy, or surprise at text, with 95% intervals.

    Args:
        run: folder of a finished run, or flowers or stdlib, which come with the package; for text also a folder of
            save_pretrained or a model on the Hub
        data: text: wikitext, lambada, ptb, cbt, openwebtext or a file (default: what the run's recipe holds out).
            Images, sequences, captions: --data.path and --data.workers, where they are not where the recipe says
        path: text: the local copy of a known set, as it was published (default: from the Hub)
        context: text: sliding = windows of --length tokens, each --stride further (default); streaming = one pass, the
            state carried over
        length: text: tokens of a window (default: the model's positions)
        stride: text: how far a window is from the one before (default: half a window)
        chunk: text: tokens that stream at once (default: 1024); it changes no figure
        position_mode: text: clamped = go on past a table of learned positions
        batch_size: images, sequences, or windows of text, per forward pass
        device: cpu, cuda, ... (default: cuda where there is one)
        json: print one JSON object instead of a sentence
    """
    from tost.evaluation.runs import evaluate as recompute

    given = data if isinstance(data, str) else {k: v for k, v in asdict(data).items() if v is not None}
    text = {
        "path": path,
        "context": context,
        "length": length,
        "stride": stride,
        "chunk": chunk,
        "position_mode": position_mode,
    }
    chosen = {name: value for name, value in text.items() if value is not None}
    result = recompute(run_or_shipped(run), data=given, batch_size=batch_size, device=device, **chosen)
    print(json_module.dumps(result) if json else sentence(result))


def sentence(result: dict[str, Any]) -> str:
    """What a result says."""
    if "kinds" in result:
        return answers(result)
    if "sequences" in result:
        judged = f"{result['counted']:,} tokens of " if result["counted"] != result["sequences"] else ""
        return (
            f"accuracy {share(result)} of {judged}{result['sequences']:,} held-out sequences right "
            f"(split {result['split']!r}, {result['classes']} classes; the most frequent one: {result['majority']:.2%})"
        )
    if "images" in result:
        how = f", nearest subspace, R - R_c {result['reduction']:.2f} nats" if "reduction" in result else ""
        return (
            f"accuracy {share(result)} of {result['images']} held-out images right "
            f"(split {result['split']!r}, {result['classes']} classes{how})"
        )
    lines = [f"text     {result['text']}", f"context  {window(result)}"]
    for name, part in result.get("parts", {}).items():
        lines.append(f"{name:<8} accuracy {share(part)} of {part['questions']} questions right")
    if "loss" in result:
        low_high = result["interval"]
        sure = f" (95% interval {low_high[0]:.4f} to {low_high[1]:.4f})" if low_high else ""
        lines.append(f"surprise {result['loss']:.4f} nats a token{sure}, perplexity {result['perplexity']:.2f}")
        if result["bits_per_byte"] is not None:
            lines.append(f"         {result['bits_per_byte']:.4f} bits per byte")
        counts = [f"{result[name]:,} {name}" for name in ("tokens", "bytes", "documents")]
        lines.append(f"over     {', '.join(counts)}")
    if "last_word_loss" in result:
        told = {**result, "interval": result["accuracy_interval"]}
        lines.append(f"last     accuracy {share(told)} of {result['passages']} last words right")
        lines.append(f"         perplexity of the word {result['last_word_perplexity']:.2f}")
    return "\n".join(lines)


def answers(result: dict[str, Any]) -> str:
    """A line for every kind of question, or the surprise at captions."""
    if list(result["kinds"]) == ["caption"]:
        return (
            f"surprise {result['loss']:.4f} nats a token, perplexity {result['perplexity']:.2f}, "
            f"{result['bits_per_byte']:.4f} bits per byte, on {result['questions']:,} held-out captions"
        )
    width = max(map(len, result["kinds"]))
    lines = [f"accuracy {share(result)} of {result['questions']:,} held-out answers right (split {result['split']!r})"]
    for kind, part in result["kinds"].items():
        always = f"always the same answer: {part['majority']:.2%}"
        lines.append(f"  {kind:<{width}}  {share(part)} of {part['questions']:,} ({always})")
    return "\n".join(lines)


def share(part: dict[str, Any]) -> str:
    """An accuracy, its interval, and how many are right."""
    low, high = part["interval"]
    return f"{part['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}), {part['right']}"


def window(result: dict[str, Any]) -> str:
    if result["context"] == "streaming":
        return f"streaming: all that came before, in chunks of {result['chunk']} tokens"
    return f"sliding windows of {result['length']} tokens, stride {result['stride']}"
