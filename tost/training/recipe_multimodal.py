"""What `tost train multimodal-...` runs: the settings of a recipe over images and text, their types and meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tost.data.image_text import ImageTextOptions
from tost.training.recipe import flatten
from tost.training.recipe_sequence import SequenceOptimRecipe, SequenceRunRecipe


@dataclass
class MultimodalModelRecipe:
    """The model.

    Args:
        preset: size by name: nano, tiny, base, medium, large, modern or modern-nano
        weights: a run folder or a folder of save_pretrained to start from (preset is then not used)
        options: options of ToSTMultimodalConfig that differ from the preset
    """

    preset: str = "modern-nano"
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class MultimodalRecipe:
    """Everything a run depends on.

    Args:
        task: multimodal: the settings below
        description: one line for the list of recipes
        model: the model
        data: the images and the text
        optim: the optimiser
        run: the run
    """

    task: Literal["multimodal"] = "multimodal"
    description: str = ""
    model: MultimodalModelRecipe = field(default_factory=MultimodalModelRecipe)
    data: ImageTextOptions = field(default_factory=ImageTextOptions)
    optim: SequenceOptimRecipe = field(default_factory=SequenceOptimRecipe)
    run: SequenceRunRecipe = field(default_factory=SequenceRunRecipe)

    def flat(self) -> dict[str, Any]:
        """Every setting under its dotted name, lists and tuples alike."""
        return flatten(asdict(self))
