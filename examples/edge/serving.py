"""What the runners share: files are whole, an image becomes numbers, tokens become text."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Call = Callable[[str, Arrays], Arrays]  # call(graph, inputs by name) -> outputs by name


def serve(open_graphs: Callable[[Path, dict[str, Any]], Call]) -> None:
    """FOLDER IMAGE: its likeliest classes.  FOLDER PROMPT [COUNT]: the text that follows, as it comes."""
    try:
        folder, given, count = Path(sys.argv[1]), sys.argv[2], int((*sys.argv[3:], 50)[0])
    except (IndexError, ValueError):
        sys.exit(f"usage: {sys.argv[0]} FOLDER IMAGE, or FOLDER PROMPT [TOKENS]")
    try:
        told = read_manifest(folder)
        call = open_graphs(folder, told)
        if "preprocessing" in told:
            print(*classes(call, told, given), sep="\n")
        else:
            for piece in write_on(call, told, folder, given, count):
                print(piece, end="", flush=True)
            print()
    except Exception as error:  # a runtime's own kinds
        sys.exit(f"{sys.argv[0]}: {' '.join(str(error).split())}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json; ValueError if a file that it names is not what was written."""
    told = json.loads((folder / "manifest.json").read_text("utf-8"))
    for name, known in told["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != known:
            raise ValueError(f"{folder / name} is damaged; export the model again")
    return told


def classes(call: Call, told: dict[str, Any], file: str, shown: int = 3) -> list[str]:
    """The likeliest classes of an image file."""
    scores = call("model", {"images": read_image(file, told)})["logits"][0]
    share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    names = told["classes"] or range(len(scores))
    return [f"{share[k]:6.1%}  {names[k]}" for k in np.argsort(-scores)[:shown]]


def read_image(file: str, told: dict[str, Any]) -> np.ndarray:
    """[1, C, H, W]: the whole image in its proportions, about as large as the model was trained on."""
    from PIL import Image

    p, limit = told["preprocessing"], told["limits"]["side"]
    image = Image.open(file).convert("RGB" if p["channels"] == 3 else "L")
    scale = p["image_size"] / (image.width * image.height) ** 0.5
    width, height = (max(1, round(side * scale / p["patch"])) * p["patch"] for side in image.size)
    if max(width, height) > limit:
        raise ValueError(f"{file} would be {width} x {height} pixels, and the graph takes {limit} a side; crop it")
    x = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    x = (x.reshape(height, width, -1) - np.float32(p["mean"])) / np.float32(p["std"])
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def write_on(call: Call, told: dict[str, Any], folder: Path, prompt: str, count: int) -> Iterator[str]:
    """The prompt and the likeliest tokens after it, piece by piece; the state goes round, and never grows."""
    from tokenizers import Tokenizer

    words, shown = Tokenizer.from_file(str(folder / "tokenizer.json")), 0
    state, ids = empty_state(told), words.encode(prompt).ids
    if not ids:
        raise ValueError("an empty prompt has no next token; begin with a word")
    new = ids
    for left in reversed(range(count + 1)):
        text = words.decode(ids)
        yield text[shown:]
        shown = len(text)
        if left:
            logits, state = feed(call, told, new, state)
            new = [int(logits[0].argmax())]
            if new[0] == told["eos_token_id"]:
                return
            ids = ids + new


def empty_state(told: dict[str, Any], batch: int = 1) -> Arrays:
    """What a stream remembers before its first token: zeros."""
    entries = {entry["name"]: entry for entry in told["graphs"][0]["inputs"]}
    return {name: np.zeros([batch, *entries[name]["shape"][1:]], entries[name]["dtype"]) for name in told["state"]}


def feed(call: Call, told: dict[str, Any], new: list[int], state: Arrays) -> tuple[np.ndarray, Arrays]:
    """(logits [1, V] after the new tokens, the next state): one token by decode, more by prefill, so many at a time."""
    logits, most = np.zeros((1, 0)), told["limits"]["tokens"]
    for start in range(0, len(new), most):
        tokens = np.array([new[start : start + most]], np.int64)
        out = call("decode" if tokens.shape[1] == 1 else "prefill", {"tokens": tokens, **state})
        logits, state = out["logits"], {name: out[f"next.{name}"] for name in state}
    return logits, state
