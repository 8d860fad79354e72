"""The texts that language models are compared on: a local copy in the published format, or the Hub's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tost.data.texts import read_text
from tost.extras import require

NAMES = ("wikitext", "lambada", "ptb", "cbt", "openwebtext")
# dataset, configuration and split on the Hub, and its revision where the main one is a script
HUB: dict[str, tuple[str, str | None, str, str | None]] = {
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", None),
    "lambada": ("EleutherAI/lambada_openai", "default", "test", None),
    "ptb": ("ptb-text-only/ptb_text_only", None, "test", "refs/convert/parquet"),
    "cbt CN": ("cam-cst/cbt", "CN", "test", None),
    "cbt NE": ("cam-cst/cbt", "NE", "test", None),
    "openwebtext": ("Skylion007/openwebtext", None, "train", None),
}
OPENWEBTEXT_SPLIT = {"test_size": 0.0005, "seed": 2357, "shuffle": True}  # nanoGPT's, which the paper used
ARTICLE = re.compile(r"^(?= = [^=\n]*[^=\n ] = $)", re.MULTILINE)  # WikiText's heading of the first rank


@dataclass
class Question:
    """A cloze: `sentences` tell the story, `query` holds XXXXX in place of one of `options`."""

    sentences: list[str]
    query: str
    answer: str
    options: list[str]


@dataclass
class TextSet:
    """Text to score.

    told: what text it is, as it was published or changed.
    documents: strings.  joined: they follow on one another and are scored as one text; else each begins afresh.
    questions: by name of the part, in place of documents.
    """

    name: str
    told: str
    documents: list[str] = field(default_factory=list)
    joined: bool = False
    questions: dict[str, list[Question]] = field(default_factory=dict)


def load_text_set(name: str, path: str | None = None) -> TextSet:
    """The set called `name` (one of NAMES), from the local copy at `path` or from the Hub; or the text file `name`.

    Raises ValueError for an unknown name, a set that is not there, and files in another format (with their line).
    """
    if name not in NAMES:
        if path is not None:
            raise ValueError(
                f"--path is where one of {', '.join(NAMES)} lies, got --data {name}; give the file as --data"
            )
        return _file(Path(name))
    if path is not None and not Path(path).exists():
        raise ValueError(f"{path}: no such file or folder")
    read = {"wikitext": _wikitext, "lambada": _lambada, "ptb": _ptb, "cbt": _cbt, "openwebtext": _openwebtext}[name]
    found = read(Path(path) if path is not None else None)
    if not any(text.strip() for text in found.documents) and not any(found.questions.values()):
        raise ValueError(f"{path or name}: there is no text in it")
    return found


def _file(path: Path) -> TextSet:
    if not path.is_file():
        raise ValueError(f"--data {path}: no such file, and none of the known sets: {', '.join(NAMES)}")
    if path.suffix == ".jsonl":
        return TextSet(str(path), f"{path}, a document a line", [text for text in _jsonl(path) if text])
    text = read_text(path)
    if not text:
        raise ValueError(f"{path} is empty; give a file with text")
    return TextSet(str(path), f"{path} as it is", [text])


def _wikitext(path: Path | None) -> TextSet:
    if path is None:
        text = "".join(row["text"] or " \n" for row in _hub("wikitext"))  # the Hub's copy empties blank lines
    else:
        text = read_text(_one_file(path, "wiki.test.raw", "wiki.test.tokens"))
    articles = ARTICLE.split(text)
    if len(articles) > 1 and not articles[0].strip():
        articles[:2] = ["".join(articles[:2])]  # the blank line before the first heading
    told = f"{path or 'the test set of WikiText-2, raw'}, as published (spaces around punctuation, @-@), one stream"
    return TextSet("wikitext", told, articles, joined=True)


def _lambada(path: Path | None) -> TextSet:
    passages = [row["text"] for row in _hub("lambada")] if path is None else _jsonl(_one_file(path, "*.jsonl"))
    told = f"{path or 'LAMBADA'}, OpenAI's version, each passage by itself"
    return TextSet("lambada", told, [text for text in passages if text.strip()])


def _ptb(path: Path | None) -> TextSet:
    if path is None:
        lines: Iterable[str] = (row["sentence"] for row in _hub("ptb"))
    else:
        lines = read_text(_one_file(path, "ptb.test.txt")).splitlines()
    text = "\n".join(line.strip() for line in lines if line.strip())
    told = f"{path or 'the Penn Treebank test set'}, as published (lower case, <unk>, N), sentences joined by line ends"
    return TextSet("ptb", told, [text] if text else [], joined=True)


def _openwebtext(path: Path | None) -> TextSet:
    if path is None:
        part = _hub("openwebtext").train_test_split(**OPENWEBTEXT_SPLIT)["test"]
        told = "OpenWebText, the 0.05% that nanoGPT holds out, each document by itself"
        return TextSet("openwebtext", told, [text for text in part["text"] if text.strip()])
    files = sorted(path.glob("*.txt")) + sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    texts = (text for file in files for text in (_jsonl(file) if file.suffix == ".jsonl" else [read_text(file)]))
    told = f"{path}, each document by itself"
    return TextSet("openwebtext", told, [text for text in texts if text.strip()])


def _cbt(path: Path | None) -> TextSet:
    source = path or "the Children's Book Test"
    told = f"{source}, as published (spaces around punctuation, -LRB-)"
    if path is None:
        parts = {part: [_hub_question(row) for row in _hub(f"cbt {part}")] for part in ("CN", "NE")}
    elif path.is_dir():
        files = {part: sorted(path.rglob(f"cbtest_{part}_test*.txt")) for part in ("CN", "NE", "P", "V")}
        parts = {part: list(questions(found[0])) for part, found in files.items() if found}
    else:
        named = re.match(r"cbtest_([A-Z]+)_", path.name)
        parts = {named.group(1) if named else path.stem: list(questions(path))}
    return TextSet("cbt", told, questions=parts)


def questions(path: Path) -> Iterator[Question]:
    """The items of a cbtest_*.txt: twenty numbered lines, then `21 query TAB answer TAB TAB option|option|...`."""
    story: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        told, *columns = line.split("\t")
        place, _, sentence = told.partition(" ")
        if not place.isdigit():
            raise ValueError(f"{path}, line {number}: expected a numbered line of the Children's Book Test")
        if not columns:
            story.append(sentence)
            continue
        answer, options = columns[0].strip(), [option for option in columns[-1].strip().split("|") if option]
        if "XXXXX" not in sentence or answer not in options:
            raise ValueError(
                f"{path}, line {number}: expected a question with XXXXX, TAB, its answer, TAB TAB, options with | "
                "between them and the answer among them"
            )
        yield Question(story, sentence, answer, options)
        story = []


def _hub_question(row: dict[str, Any]) -> Question:
    return Question(
        list(row["sentences"]), row["question"], row["answer"], [option for option in row["options"] if option]
    )


def _one_file(path: Path, *names: str) -> Path:
    """The file at `path`, or in the folder `path` the first that has one of `names`."""
    if not path.is_dir():
        return path
    found = [file for name in names for file in sorted(path.rglob(name))]
    if not found:
        raise ValueError(f"{path}: expected {' or '.join(names)} in it; give the file itself")
    return found[0]


def _jsonl(path: Path) -> list[str]:
    """The field `text` of every line."""
    texts = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            texts.append(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path}, line {number}: expected a JSON object such as {{"text": "..."}}') from None
        if not isinstance(texts[-1], str):
            raise ValueError(f'{path}, line {number}: expected "text" to be a string')
    return texts


def _hub(name: str) -> Any:
    """The rows of a set on the Hub."""
    datasets = require("datasets", extra="training")
    dataset, configuration, split, revision = HUB[name]
    try:
        return datasets.load_dataset(dataset, configuration, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds: connection, missing, malformed
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{dataset} cannot be had from the Hub ({told}); get it by other means and say where it is with --path"
        ) from None
