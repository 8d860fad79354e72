"""Where labelled sequences come from: one table of sources, one signature."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tost.data.sequences import SequenceSets


@dataclass
class SequenceOptions:
    """The sequences; a number that is left out is the task's published one.

    Args:
        source: listops, imdb, aan, cifar-grey, pathfinder, pathx (Long Range Arena), fasta, peptides, sktime or series
        path: file or folder that is read; listops, pathfinder and pathx are generated where it is left out
        name: which of several: a set of sktime (BasicMotions, JapaneseVowels, ACSF1), how hard Pathfinder is (easy,
            intermediate, hard), the letters of fasta (protein, dna)
        max_length: longer sequences are cut there; listops has expressions shorter than that
        min_length: listops has expressions longer than that
        samples: training sequences at most, or so many generated
        evaluated: the same for validation and test, each
        validation: share of the training sequences set apart to watch progress, where the publisher set none apart
        seed: of what is generated or chosen
        size: side of Pathfinder's images in pixels
        labels: fasta: a .tsv or .csv file of names and labels (default: label= in the headers), or a FASTA file of the
            same names with a letter for the class of every residue
        gaps: series with missing values: refuse, or fill with the last value and a channel that says so
        workers: processes that read or generate ahead of training
    """

    source: str = "listops"
    path: str | None = None
    name: str | None = None
    max_length: int | None = None
    min_length: int | None = None
    samples: int | None = None
    evaluated: int | None = None
    validation: float = 0.1
    seed: int = 0
    size: int | None = None
    labels: str | None = None
    gaps: Literal["refuse", "fill"] = "refuse"
    workers: int = 0


# source -> module and function of (options) -> SequenceSets, imported when asked for
SOURCES = {
    "listops": ("tost.data.long_range.listops", "load_listops"),
    "imdb": ("tost.data.long_range.text", "load_text_bytes"),
    "aan": ("tost.data.long_range.retrieval", "load_pairs"),
    "cifar-grey": ("tost.data.long_range.image", "load_grey_images"),
    "pathfinder": ("tost.data.long_range.pathfinder", "load_pathfinder"),
    "pathx": ("tost.data.long_range.pathfinder", "load_pathfinder"),
    "fasta": ("tost.data.fasta_tasks", "load_fasta"),
    "peptides": ("tost.data.fasta_tasks", "load_peptides"),
    "sktime": ("tost.data.series", "load_shipped_series"),
    "series": ("tost.data.series", "load_series"),
}


def load_sequences(options: SequenceOptions) -> SequenceSets:
    """The sets of options.source.

    Raises ValueError, in one line, for an unknown source or an option out of range, and what the source raises.
    """
    if options.source not in SOURCES:
        raise ValueError(f"unknown source of sequences {options.source!r}; expected one of {', '.join(SOURCES)}")
    for field in ("max_length", "min_length", "samples", "evaluated", "size"):
        value = getattr(options, field)
        if value is not None and value < 1:
            raise ValueError(f"data.{field} is a number from 1 on, got {value}; leave it out for the task's own")
    if not 0 < options.validation < 1:
        raise ValueError(f"data.validation is a share of the training sequences, above 0, got {options.validation}")
    if options.gaps not in ("refuse", "fill"):
        raise ValueError(f"data.gaps is refuse or fill, got {options.gaps!r}")
    module, function = SOURCES[options.source]
    return getattr(importlib.import_module(module), function)(options)


def place(options: SequenceOptions, what: str) -> str:
    """options.path, or a ValueError that says `what` is expected there."""
    if options.path is None:
        raise ValueError(f"data.source {options.source} reads {what}: set --data.path")
    return options.path
