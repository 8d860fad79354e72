"""Images from where they lie: scikit-learn, IDX and CIFAR files, image folders, image lists, Hugging Face datasets.

Text is in tost.data.text: documents, their split, tokens, packed rows. Labelled sequences are in tost.data.sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tost.data.images import ImageSets, TensorImages, load_images, to_model_input

__all__ = ["ImageSets", "TensorImages", "load_images", "to_model_input"]


def __getattr__(name: str) -> Any:
    """At first use: the settings of a recipe on sequences are read without waiting for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'tost.data' has no attribute {name!r}")
    from tost.data import images

    return getattr(images, name)
