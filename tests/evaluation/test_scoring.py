"""Surprise by token: sliding and streaming contexts give what one pass gives, each token once."""

import math

import numpy as np
import pytest
import torch

from tests.models.language.common import V, text, tiny
from tests.textmodels import full_nats
from tost.evaluation import ratio_interval
from tost.evaluation.scoring import Context, default_context, score, windows


@pytest.fixture(scope="module")
def model():
    return tiny(position_mode="clamped").double()


def ids(n, seed=0):
    return text(n, seed=seed)[0]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@torch.no_grad()
def test_streaming_in_any_chunks_equals_one_pass(model, chunk):
    documents = [ids(60), ids(21, 1), ids(21, 2), ids(1, 3), ids(0), ids(2, 4)]
    found = score(model, documents, Context("streaming", chunk=chunk))
    for document, scores in zip(documents, found):
        assert len(scores.nats) == max(0, len(document) - 1)
        if len(document) > 1:
            torch.testing.assert_close(scores.nats, full_nats(model, document), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_sliding_equals_one_pass_where_the_text_fits(model):
    documents = [ids(30), ids(49, 1), ids(49, 2), ids(2, 3), ids(1, 4)]
    for scores, document in zip(score(model, documents, Context(length=48, stride=24)), documents):
        if len(document) > 1:
            want = full_nats(model, document)
            torch.testing.assert_close(scores.nats, want, rtol=1e-9, atol=1e-9)
            logits = model(document[None, :-1]).logits[0]
            assert torch.equal(scores.hits, logits.argmax(-1) == document[1:])


@pytest.fixture(scope="module")
def from_every_begin(model):
    """nats of each token of one text, by where its context begins."""
    document = ids(34)
    with torch.no_grad():
        return document, [full_nats(model, document[begin:]) for begin in range(33)]


@pytest.mark.parametrize(("length", "stride"), [(16, 8), (16, 16), (16, 1), (5, 3)])
def test_each_token_is_scored_once_with_enough_context(model, from_every_begin, length, stride):
    document, nats = from_every_begin
    found = score(model, [document], Context(length=length, stride=stride, batch_size=4))[0].nats
    for target in range(1, 34):
        enough = min(target, length - stride)
        begins = [b for b in range(target) if enough <= target - b <= length]
        gap = min(abs(float(found[target - 1] - nats[b][target - 1 - b])) for b in begins)
        assert gap < 1e-9, (target, gap)


@pytest.mark.parametrize("inputs", [1, 9, 10, 11, 47, 100])
@pytest.mark.parametrize("keep", [1, 5, 100])
def test_windows_cover_what_is_asked_for_once(inputs, keep):
    keep, length, stride = min(keep, inputs), 10, 4
    covered = []
    for window in windows(0, inputs, keep, length, stride):
        assert 0 <= window.begin < window.end <= inputs and window.end - window.begin == min(length, inputs)
        assert window.end - window.keep - window.begin >= min(window.end - window.keep, length - stride)
        covered += range(window.end - window.keep, window.end)
    assert covered == list(range(inputs - keep, inputs))


@pytest.mark.parametrize(
    "context", [Context(length=20, stride=10), Context("streaming", chunk=6)], ids=lambda c: c.kind
)
@torch.no_grad()
def test_the_last_tokens_alone(model, context):
    documents = [ids(50), ids(21, 1), ids(9, 2)]
    whole = score(model, documents, context)
    for all_of_it, some, n in zip(whole, score(model, documents, context, last=[4, 100, 1]), [4, 20, 1]):
        torch.testing.assert_close(some.nats, all_of_it.nats[-n:], rtol=1e-9, atol=1e-9)
        assert len(some.nats) == n
    if context.kind == "streaming":
        assert torch.equal(score(model, documents, context, last=[4, 4, 4])[0].nats, whole[0].nats[-4:])


def test_batch_size_changes_nothing(model):
    documents = [ids(60, seed) for seed in range(5)]
    one = score(model, documents, Context(length=16, stride=8, batch_size=1))
    many = score(model, documents, Context(length=16, stride=8))
    for a, b in zip(one, many):
        torch.testing.assert_close(a.nats, b.nats, rtol=1e-9, atol=1e-9)


def test_the_default_context_is_the_models():
    config = tiny().config
    assert default_context(config) == Context(length=48, stride=24)
    assert default_context(config, length=10, kind=None).stride == 5
    assert default_context(config, length=10, stride=7).stride == 7


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"length": 49, "stride": 1}, "positions for 48 tokens, got --length 49"),
        ({"kind": "streaming"}, "--position_mode clamped, or choose --context sliding"),
    ],
)
def test_contexts_beyond_the_position_table_are_refused(context, told):
    with pytest.raises(ValueError, match=told):
        score(tiny(), [ids(60)], Context(**context))


def test_a_short_text_streams_through_learned_positions():
    model = tiny().double()
    found = score(model, [ids(49)], Context("streaming", chunk=10))[0]
    torch.testing.assert_close(found.nats, full_nats(model, ids(49)).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "whole"}, "sliding or streaming"),
        ({"length": 4, "stride": 5}, "1 <= stride <= length"),
        ({"stride": 0}, "1 <= stride <= length"),
        ({"chunk": 0}, "chunk and batch_size"),
    ],
)
def test_nonsense_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Context(**options)
    with pytest.raises(ValueError, match=f"made token {V}"):
        score(tiny(), [torch.tensor([1, V])], Context(length=4, stride=2))


def test_ratio_interval_covers_as_often_as_it_says():
    generator, inside = np.random.default_rng(0), 0
    for _ in range(400):
        counts = generator.integers(50, 500, 60)
        totals = counts * generator.normal(3.0, 0.4, 60)
        low, high = ratio_interval(totals.tolist(), counts.tolist())
        inside += low < 3.0 < high
    assert 0.92 <= inside / 400 <= 0.98
    assert ratio_interval([1.0] * 9, [1] * 9) is None
    low, high = ratio_interval([2.0] * 10, [1] * 10)
    assert low == high == 2 and math.isfinite(low)
