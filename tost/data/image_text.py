"""Images and what is said about them: where they come from, and the batches that a model learns from."""

# B rows, N tokens of the longest row, I images (one a row here), Np patches of an image

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100  # the label of a token that is not judged


@dataclass
class ImageTextOptions:
    """Images and what is said about them.

    Args:
        source: digits (grids of scikit-learn's scans, with questions) or captions (images with captions at data.path)
        path: captions: a folder of images with captions.jsonl or metadata.jsonl in it, a .jsonl file, or a Hugging Face
            dataset saved on disk
        image_size: captions: side in pixels that the model sees; digits have 8 a cell
        mean: per channel, of pixels in 0 to 1; one number makes images grey
        std: per channel, of pixels in 0 to 1
        grid: digits: rows and columns
        kinds: digits: which questions are asked
        questions: digits: questions after each training image
        samples: digits: training images that make an epoch, each drawn from the seed
        evaluated: digits: questions of the validation and the test part, each
        validation: share of the images, or of the training scans, set apart to watch progress
        test: captions: share of the images held out, where the dataset has no test split
        tokenizer: bpe (learned from the training text), bytes, or a folder or a name on the Hub such as gpt2
        vocab_size: of bpe, the 256 bytes and the end of text included
        hide: what a control does not get to see: none, image (blank) or question (left out)
        seed: of the grids and questions
        workers: processes that make or decode images ahead of training
    """

    source: Literal["digits", "captions"] = "digits"
    path: str | None = None
    image_size: int = 64
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    grid: list[int] = field(default_factory=lambda: [2, 2])
    kinds: list[str] = field(default_factory=lambda: ["which", "where", "how many", "sum"])
    questions: int = 4
    samples: int = 100_000
    evaluated: int = 2_000
    validation: float = 0.1
    test: float = 0.1
    tokenizer: str = "bpe"
    vocab_size: int = 400
    hide: Literal["none", "image", "question"] = "none"
    seed: int = 0
    workers: int = 0


@dataclass
class ImageTextSets:
    """A task on images and text. An item is {"image": uint8 [C, H, W], "questions": [Question, ...]}.

    size: (H, W).  kinds: of the questions; item i of validation and test asks one of kind i % len(kinds).
    held_out: the name of the test part.  texts: what a tokenizer is learned from.  facts: what the data are, as
    summary.json tells it.
    """

    train: Any
    validation: Any
    test: Any
    size: tuple[int, int]
    kinds: list[str]
    held_out: str
    texts: Iterable[str]
    facts: dict[str, Any]


def load_image_text(options: ImageTextOptions) -> ImageTextSets:
    """The sets of options.source. Raises ValueError for options out of range, and what a source raises."""
    if len(options.mean) not in (1, 3) or len(options.std) != len(options.mean) or min(options.std) <= 0:
        raise ValueError(
            f"data.mean and data.std are one number (grey) or three (RGB) each, std above 0, got {options.mean} and "
            f"{options.std}"
        )
    if options.source == "captions":
        return _captions(options)
    return _digits(options)


def _digits(options: ImageTextOptions) -> ImageTextSets:
    from tost.data.questions import GridQuestions, digit_scans

    if len(options.mean) != 1 or len(options.grid) != 2:
        raise ValueError(
            f"the scans of digits are grey and the grid has rows and columns: give one data.mean and two numbers of "
            f"data.grid, got {options.mean} and {options.grid}"
        )
    scans, size = digit_scans(options.validation), (options.grid[0], options.grid[1])
    parts = {
        part: GridQuestions(*scans[part], part, count, size, questions, options.kinds, options.seed)
        for part, count, questions in (
            ("train", options.samples, options.questions),
            ("validation", options.evaluated, 1),
            ("test", options.evaluated, 1),
        )
    }
    facts = {"from": "scikit-learn's digits", "grid": list(size), "scans": {k: len(v[1]) for k, v in scans.items()}}
    texts = Texts(parts["train"], 4000)
    return ImageTextSets(
        **parts, size=(8 * size[0], 8 * size[1]), kinds=list(options.kinds), held_out="test", texts=texts, facts=facts
    )


def _captions(options: ImageTextOptions) -> ImageTextSets:
    from tost.data.captions import load_captions

    if options.path is None:
        raise ValueError("captions are read from a path: set --data.path (see tost train multimodal-captions --help)")
    S = options.image_size
    parts = load_captions(options.path, S, len(options.mean), options.validation, options.test)
    words = "\n".join(caption for part in parts.values() for caption in part.captions)
    counted = {name: len(part) for name, part in parts.items()}
    facts = {"from": "captions", "captions": counted, "fingerprint": f"{zlib.crc32(words.encode()):08x}"}
    return ImageTextSets(
        **parts, size=(S, S), kinds=["caption"], held_out="test", texts=parts["train"].captions, facts=facts
    )


class Texts:
    """The questions and answers of the first `count` items of a set, again each time it is read."""

    def __init__(self, items: Any, count: int) -> None:
        self.items, self.count = items, min(count, len(items))

    def __iter__(self) -> Iterator[str]:
        for index in range(self.count):
            yield from (f"{one.text} {one.answer}" for one in self.items[index]["questions"])


class Batches:
    """Collates items for a model over images and text: each row an image, then questions and answers.

        <image> x Np   question   answer <end>   question   answer <end>   ...

    processor: a ToSTProcessor.  hide: "image" makes images blank, "question" leaves the questions out.
    Gives "input_ids" and "labels" [B, N], IGNORE but at answers and their ends, and "pixel_values" [B, C, H, W]. Rows
    are filled up on the right, where nothing looks.
    """

    def __init__(self, processor: Any, hide: str = "none") -> None:
        self.processor, self.hide = processor, hide
        self.encode = functools.lru_cache(maxsize=4096)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer.encode(text, add_special_tokens=False))

    def __getstate__(self) -> dict[str, Any]:  # for workers that are spawned: a cache stays at home
        return {name: value for name, value in vars(self).items() if name != "encode"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["processor"], state["hide"])  # type: ignore[misc]

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        import torch

        pixels = self.pixels([item["image"] for item in items])
        places = self.processor.places(pixels)
        rows = [self.row(item["questions"], places) for item in items]
        longest, end = max(len(ids) for ids, _ in rows), self.processor.tokenizer.eos_token_id
        input_ids = torch.full((len(rows), longest), end, dtype=torch.int64)
        labels = torch.full_like(input_ids, IGNORE)
        for i, (ids, judged) in enumerate(rows):
            input_ids[i, : len(ids)], labels[i, : len(ids)] = torch.tensor(ids), torch.tensor(judged)
        return {"input_ids": input_ids, "labels": labels, "pixel_values": pixels}

    def row(self, questions: Sequence[Any], places: int) -> tuple[list[int], list[int]]:
        """Ids and labels of one row."""
        ids, labels = [self.processor.image_token_id] * places, [IGNORE] * places
        for one in questions:
            asked = self.encode(one.text) if one.text and self.hide != "question" else ()
            answer = (*self.encode(f" {one.answer}"), self.processor.tokenizer.eos_token_id)
            ids += [*asked, *answer]
            labels += [IGNORE] * len(asked) + list(answer)
        return ids, labels

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """What the processor makes of uint8 images [C, H, W], without its detours."""
        import numpy as np
        import torch

        from tost.data.images import normalise

        stacked = torch.from_numpy(np.stack(images)).float() / 255
        look = self.processor.image_processor
        return normalise(
            torch.zeros_like(stacked) if self.hide == "image" else stacked, look.image_mean, look.image_std
        )
