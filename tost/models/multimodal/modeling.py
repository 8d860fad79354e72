"""One causal ToST over images and text, in transformers' conventions."""

# B batch, N tokens, I images, Np patches of an image, C = hidden_size, V = vocab_size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from tost.models.language.heads import ToSTForCausalLM
from tost.models.language.inputs import check_input, readable
from tost.models.language.modeling import ToSTModel, ToSTPreTrainedModel
from tost.models.multimodal.config import ToSTMultimodalConfig
from tost.models.multimodal.patches import ImageTokens
from tost.nn.linear import Linear


class ToSTMultimodalPreTrainedModel(ToSTPreTrainedModel):
    """What both models share: the start of what is not text."""

    config: ToSTMultimodalConfig
    config_class = ToSTMultimodalConfig

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, ImageTokens) and module.size is not None:
            init.constant_(module.size, self.config.initializer_range)
            init.normal_(module.positions.proj.weight, mean=0.0, std=module.positions.frequencies**-0.5)


class ToSTMultimodalModel(ToSTMultimodalPreTrainedModel, ToSTModel):
    """A ToSTModel whose tokens are patches where input_ids hold config.image_token_id, Np of them for each image.

        x_n = embedding(id_n) + modality[0]      or      ImageTokens(images)_n + modality[1]

    Images stand anywhere in the text, any number of them; pixel_values [I, in_chans, H, W] are those of the batch row
    by row. What follows is the language model's: one causal stream, one state.
    """

    def __init__(self, config: ToSTMultimodalConfig) -> None:
        super().__init__(config)
        self.image = ImageTokens(config)
        self.modality = nn.Embedding(2, config.hidden_size) if config.modality_embedding else None
        self.post_init()

    def embed(self, input_ids: Tensor | None, pixel_values: Tensor | None) -> Tensor:
        """What enters the first block [B, N, C]. Raises ValueError unless placeholders and images fit together."""
        check_input(self.config, input_ids, None, None)
        assert input_ids is not None
        here = input_ids == self.config.image_token_id
        x = self.embedding(input_ids)
        if pixel_values is not None:
            tokens = self.image(pixel_values).flatten(0, 1)
            if readable(here) and int(here.sum()) != len(tokens):
                raise ValueError(
                    f"{len(pixel_values)} images of {self.image.count(pixel_values)} tokens each need {len(tokens)} "
                    f"places in input_ids, got {int(here.sum())}; the processor makes both"
                )
            x = x.masked_scatter(here[..., None], tokens.to(x.dtype))
        elif readable(here) and bool(here.any()):
            raise ValueError(
                f"input_ids hold {int(here.sum())} places of patches, got no pixel_values; the processor makes both"
            )
        return x if self.modality is None else x + self.modality(here.long())

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        """inputs_embeds: what `embed` returned, in place of the two before it.  options: ToSTModel.forward's."""
        x = inputs_embeds if inputs_embeds is not None else self.embed(input_ids, pixel_values)
        return super().forward(inputs_embeds=x, **options)


class ToSTForImageTextToText(ToSTMultimodalPreTrainedModel, ToSTForCausalLM):
    """ToSTMultimodalModel and a projection to the vocabulary, by default its transposed embedding.

    input_ids [B, N], pixel_values [I, in_chans, H, W] -> logits [B, N, V], and with labels [B, N] (-100: not counted)
    the mean loss of the next tokens. `generate` takes the same two; it never writes a token of an image.
    """

    input_modalities = ["image", "text"]  # noqa: RUF012 (transformers' declaration)

    def __init__(self, config: ToSTMultimodalConfig) -> None:
        ToSTPreTrainedModel.__init__(self, config)  # not ToSTForCausalLM's, which builds a model of text alone
        self.model = ToSTMultimodalModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForCausalLM"
        self.generation_config.suppress_tokens = [config.image_token_id]
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        **loss_options: Any,
    ) -> CausalLMOutputWithPast:
        """pixel_values: of the images whose places are in these input_ids. The rest as ToSTForCausalLM."""
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=self.model.embed(input_ids, pixel_values) if inputs_embeds is None else inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            logits_to_keep=logits_to_keep,
            cu_seqlens=cu_seqlens,
            **loss_options,
        )

    def _expand_inputs_for_generation(  # type: ignore[override]
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """transformers' repetition of rows for beams, with all images of a row repeated together."""
        pixels = kwargs.pop("pixel_values", None)
        if pixels is not None and expand_size > 1 and input_ids is not None:
            images = (input_ids == self.config.image_token_id).sum(1) // self.model.image.count(pixels)
            pixels = torch.cat([part.repeat(expand_size, 1, 1, 1) for part in pixels.split(images.tolist())])
        expand: Any = super()._expand_inputs_for_generation  # type: ignore[misc]
        input_ids, kwargs = expand(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs if pixels is None else {**kwargs, "pixel_values": pixels}
