"""The language model's heads: next token, and one label a sequence."""

# B batch, N tokens, C = hidden_size, V = vocab_size, K labels

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from tost.models.language.config import ToSTConfig
from tost.models.language.modeling import ToSTModel, ToSTPreTrainedModel
from tost.nn.linear import Linear
from tost.nn.split import refuse


class ToSTForCausalLM(ToSTPreTrainedModel, GenerationMixin):
    """ToSTModel and a projection to the vocabulary, by default its transposed embedding.

    input_ids [B, N] -> logits [B, N, V], and with labels [B, N] (-100: not counted) the mean loss of the next tokens.
    The labels are shifted inside: labels=input_ids is right for a text without padding. With cu_seqlens the first
    token of every document is not counted.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}  # noqa: RUF012 (transformers reads a dict)

    def __init__(self, config: ToSTConfig) -> None:
        super().__init__(config)
        self.model = ToSTModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
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
        """logits_to_keep: how many last positions get logits (0: all), or which, as a tensor. Rest as ToSTModel."""
        out = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            cu_seqlens=cu_seqlens,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            if self.model.split_over is not None:  # the target of a stretch's last token is another process's
                refuse("labels", "pass the logits' loss to split.mean, with targets shifted before they are split")
            if cu_seqlens is not None:
                labels = without_starts(labels, cu_seqlens)
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **loss_options)
        return CausalLMOutputWithPast(loss, logits, out.past_key_values, out.hidden_states)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """transformers' preparation, which would misread an empty prompt and new tokens without their past's mask."""
        if input_ids.shape[1] == 0 and inputs_embeds is None:
            raise ValueError("generate got an empty prompt; begin with one token at least, such as the tokenizer's bos")
        if next_sequence_length is not None and next_sequence_length < 1:
            past = kwargs["past_key_values"].get_seq_length()
            raise ValueError(
                f"generate got {input_ids.shape[1]} tokens and a cache of {past}; pass the whole sequence, or the new "
                "tokens alone by generate(**resume(cache, new_tokens))"
            )
        prepare: Any = super().prepare_inputs_for_generation  # type: ignore[misc]
        return prepare(input_ids, next_sequence_length, inputs_embeds=inputs_embeds, **kwargs)


class ToSTForSequenceClassification(ToSTPreTrainedModel):
    """ToSTModel and a linear layer on the last real token, which has seen all others.

    input_ids [B, N] -> logits [B, K], and with labels the loss: [B] int (classes), [B] float (K = 1: regression),
    [B, K] float (several labels at once). Without an attention_mask, config.pad_token_id tells which token is the last.
    """

    def __init__(self, config: ToSTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 1
        self.model = ToSTModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **loss_options: Any,
    ) -> SequenceClassifierOutputWithPast:
        """As ToSTForCausalLM, but one answer a sequence."""
        out = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        if self.model.split_over is not None:
            refuse("a classifier that reads the last token", "take a ToSTSequence with pool='last'")
        x = out.last_hidden_state
        B, N = x.shape[:2]
        last = torch.full((B,), N - 1, device=x.device)
        if attention_mask is not None:
            last = last_true(attention_mask[:, attention_mask.shape[1] - N :].bool()).to(x.device)
        elif input_ids is not None and self.config.pad_token_id is not None:
            last = last_true(input_ids != self.config.pad_token_id).to(x.device)
        logits = self.score(x[torch.arange(B, device=x.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **loss_options)
        return SequenceClassifierOutputWithPast(loss, logits, out.past_key_values, out.hidden_states)


def last_true(mask: Tensor) -> Tensor:
    """The last true column of each row.  mask: [B, N] bool -> [B]."""
    return (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(1)


def without_starts(labels: Tensor, cu_seqlens: Tensor) -> Tensor:
    """labels [B, N] with -100 at the first token of every packed document: nothing before it tells what it is."""
    starts = cu_seqlens[:-1][cu_seqlens.diff() > 0].long()
    return labels.flatten().index_fill(0, starts.to(labels.device), -100).view(labels.shape)
