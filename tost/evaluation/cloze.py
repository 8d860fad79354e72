"""The Children's Book Test: which option makes a question likeliest after its story."""

# N tokens of the story, n of a filled question, B options of the same length

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tost.evaluation.intervals import wilson_interval
from tost.evaluation.scoring import Context, check_ids, progress, score, surprise, tokens
from tost.evaluation.sets import Question
from tost.models.language import select_state


def cloze(model: Any, tokenizer: Any, questions: Sequence[Question], context: Context) -> dict[str, Any]:
    """Accuracy of the likeliest option: log-likelihood of the whole question, with it in the blank, after the story.

    With a sliding context each option is scored behind the end of the story that its window holds; with a streaming one
    the story is read once and its state forked for the options.
    """
    stories = tokens(tokenizer, ["\n".join(question.sentences) + "\n" for question in questions])
    endings = [tokens(tokenizer, [q.query.replace("XXXXX", option) for option in q.options]) for q in questions]
    if context.kind == "sliding":
        filled = [torch.cat([story, ids]) for story, options in zip(stories, endings) for ids in options]
        last = [len(ids) for options in endings for ids in options]
        told = iter([float(one.nats.sum()) for one in score(model, filled, context, last)])
        nats = [[next(told) for _ in options] for options in endings]
    else:
        with progress(len(questions)) as bar:
            nats = []
            for story, options in zip(stories, endings):
                nats.append(forked(model, story, options, context))
                bar.update()
    right = sum(q.options[told.index(min(told))] == q.answer for q, told in zip(questions, nats))
    return {
        "right": right,
        "questions": len(questions),
        "accuracy": right / len(questions),
        "interval": wilson_interval(right, len(questions)),
    }


@torch.inference_mode()
def forked(model: Any, story: Tensor, endings: Sequence[Tensor], context: Context) -> list[float]:
    """Nats of each of `endings` [n] after `story` [N], which is read once, chunk by chunk."""
    check_ids([story, *endings], model.config.vocab_size)
    context.check(model.config, len(story) + max(map(len, endings)))
    device, cache = next(model.parameters()).device, DynamicCache(config=model.config)
    for piece in story[:-1].split(context.chunk):
        if len(piece):
            model(piece[None].to(device), past_key_values=cache, logits_to_keep=1)
    nats = [0.0] * len(endings)
    order = sorted(range(len(endings)), key=lambda i: len(endings[i]))
    for _, group in groupby(order, key=lambda i: len(endings[i])):
        same = list(group)
        ids = torch.stack([torch.cat([story[-1:], endings[i]]) for i in same]).to(device)
        fork = select_state(cache, [0] * len(same)) if len(story) > 1 else DynamicCache(config=model.config)
        told, _ = surprise(model(ids[:, :-1], past_key_values=fork).logits, ids[:, 1:])
        for i, total in zip(same, told.sum(1).tolist()):
            nats[i] = total
    return nats
