"""The study's contestants are what they say: equal sizes, options that models know, answers that can be known."""

import pytest
import torch

from benchmarks.language_study.recall import BAR, IGNORE, TASKS, Sequences, collate, sample
from benchmarks.language_study.tables import gap_share, grouped
from benchmarks.language_study.variants import SIZES, VARIANTS, options_of
from tost.models.language import ToSTForCausalLM, preset


@pytest.mark.parametrize("size", SIZES)
def test_every_variant_has_as_many_parameters(size):
    counts = {}
    for name in VARIANTS:
        with torch.device("meta"):
            model = ToSTForCausalLM(preset("nano", vocab_size=1024, **options_of(name, size)))
        tables = [p.numel() for n, p in model.named_parameters() if "position" in n]  # the paper's and GPT-2's alone
        counts[name] = sum(p.numel() for p in model.parameters()) - sum(tables)
    middle = counts["softmax"]
    assert all(abs(count / middle - 1) < 0.02 for count in counts.values()), counts


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", [1, 5, 16])
def test_answers_can_be_known_from_what_came_before(task, n):
    tokens, labels = sample(task, n, torch.Generator().manual_seed(n))
    answers = [i for i in range(len(tokens)) if labels[i] != IGNORE]
    bar = tokens.tolist().index(BAR)
    assert len(answers) == n and min(answers) > bar
    shown = tokens[:bar].tolist()
    if task == "associative":
        pairs = dict(zip(shown[::2], shown[1::2]))
        assert all(pairs[int(tokens[i - 1])] == labels[i] for i in answers)
    else:
        assert [x for x in shown if x != 33] == [int(labels[i]) for i in answers]


def test_training_data_is_the_same_every_time_and_differs_by_seed():
    one, same, other = (collate([Sequences("copying", seed, 8)[i] for i in range(8)]) for seed in (1, 1, 2))
    assert torch.equal(one["input_ids"], same["input_ids"]) and one["input_ids"].shape[0] == 8
    assert not torch.equal(one["input_ids"][:, :3], other["input_ids"][:, :3])


def test_share_of_the_gap():
    losses = {"none": [3.0, 3.2], "softmax": [2.0, 2.2], "forget": [2.6]}
    losses |= {"none-gated": [2.8], "softmax-gated": [1.8], "linear": [2.3]}
    assert gap_share("softmax", losses, "small") == pytest.approx(1)
    assert gap_share("none", losses, "small") == pytest.approx(0)
    assert gap_share("forget", losses, "small") == pytest.approx(0.5)
    assert gap_share("linear", losses, "small") == pytest.approx(0.5)  # the gated have ends of their own
    assert gap_share("paper", losses, "small") is None  # no convolution: another comparison
    rows = [{"variant": "tssa", "size": "small", "loss": "1.5"}, {"variant": "none", "size": "medium", "loss": "2"}]
    assert grouped(rows, "loss", "small") == {"tssa": [1.5]}
