"""Images from where they lie: scikit-learn, IDX and CIFAR files, image folders, image lists, Hugging Face datasets.

Text is in tost.data.text: documents, their split, tokens, packed rows.
"""

from tost.data.images import ImageSets, TensorImages, load_images, to_model_input

__all__ = ["ImageSets", "TensorImages", "load_images", "to_model_input"]
