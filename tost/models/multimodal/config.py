"""What defines a model over images and text."""

# C = hidden_size, P = patch_size

from __future__ import annotations

from tost.models.language.config import ToSTConfig

PATCHES = ("linear", "conv")


class ToSTMultimodalConfig(ToSTConfig):
    """A ToSTConfig whose stream also holds images; all of its options apply to both kinds of tokens.

    image_token_id: the token that stands where a patch goes in input_ids.
    in_chans, patch_size: of the images; H and W are multiples of patch_size, each patch is one token.
    patch_embedding: "linear", or "conv": XCiT's stack of convolutions, for patches of 1, 2, 4, 8 or 16.
    image_norm: LayerNorm the embedded patches to the size at which token embeddings start.
    modality_embedding: add a learned vector to every patch, and another one to every token of text.
    Raises ValueError for options out of range.
    """

    model_type = "tost_multimodal"

    image_token_id: int = 1
    in_chans: int = 3
    patch_size: int = 16
    patch_embedding: str = "linear"
    image_norm: bool = True
    modality_embedding: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.image_token_id < self.vocab_size:
            raise ValueError(
                f"ToSTMultimodalConfig expects an image_token_id within the vocabulary of {self.vocab_size}, got "
                f"{self.image_token_id}"
            )
        if min(self.in_chans, self.patch_size) < 1 or self.patch_embedding not in PATCHES:
            raise ValueError(
                f"ToSTMultimodalConfig expects in_chans and patch_size of at least 1 and patch_embedding in {PATCHES}, "
                f"got {self.in_chans}, {self.patch_size} and {self.patch_embedding!r}"
            )
