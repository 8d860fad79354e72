"""Scores are what their definitions say, and nothing is chosen on what is scored."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from tost.analysis.masks import Mask, read_masks
from tost.analysis.score_section import prepare_scores, score_section
from tost.analysis.scores import (
    LEVELS,
    ClusterCounts,
    Rule,
    ari,
    best_rule,
    in_steps,
    interval,
    iou,
    level_ious,
    matched,
)
from tost.analysis.segmentation import Clusterings, score_model
from tost.analysis.subject import open_subject


class NoBar:
    def update(self):
        pass


def mask_of(labels, foreground=1, ignore=9):
    labels = torch.as_tensor(labels)
    return Mask(labels, labels == foreground, labels != ignore)


def random_mask(seed=0, shape=(8, 12)):
    chance = torch.Generator().manual_seed(seed)
    return mask_of(torch.tensor([0, 1, 9])[torch.randint(3, shape, generator=chance)])


def test_iou_counts_valid_pixels_alone():
    mask = mask_of([[1, 1, 0, 9]])
    assert iou(torch.tensor([[True, False, True, True]]), mask) == (
        pytest.approx(1 / 3),
        pytest.approx((1 / 3 + 0) / 2),
    )
    assert iou(torch.tensor([[True, True, False, True]]), mask) == (1, 1)
    assert iou(torch.zeros(1, 4, dtype=torch.bool), mask_of([[0, 0, 9, 0]])) == (1, 1)


def test_all_levels_at_once_are_each_level_by_itself():
    maps = torch.rand(3, 24, generator=torch.Generator().manual_seed(1))
    mask = random_mask()
    steps = in_steps(maps, (4, 6), (8, 12))
    found = level_ious(steps, mask)
    assert found.shape == (3, 2, LEVELS)
    for one, inverted, level in itertools.product(range(3), (False, True), range(LEVELS)):
        expected, _ = iou(Rule(one, inverted, level).mask(steps), mask)
        assert float(found[one, int(inverted), level]) == pytest.approx(expected, abs=1e-9)


def test_the_best_rule_finds_the_map_that_holds_the_object():
    mask = mask_of(torch.zeros(4, 4, dtype=torch.long).index_fill(0, torch.tensor([1, 2]), 1))
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    planted = -mask.object.float().flatten()[None]
    rule = best_rule(level_ious(in_steps(torch.cat([noise, planted]), (4, 4), (4, 4)), mask)[None])
    assert (rule.map, rule.inverted) == (2, True)


@pytest.mark.parametrize("seed", range(5))
def test_the_chosen_clusters_are_the_best_union_of_all(seed):
    labels = torch.randint(5, (8, 12), generator=torch.Generator().manual_seed(seed + 10))
    mask = random_mask(seed)
    counts = ClusterCounts(5)
    counts.add(labels, mask)
    chosen = iou(counts.foreground()[labels], mask)[0]
    unions = [c for n in range(1, 6) for c in itertools.combinations(range(5), n)]
    best = max(iou(torch.isin(labels, torch.tensor(union)), mask)[0] for union in unions)
    assert chosen == pytest.approx(best)
    assert iou(matched(labels, mask), mask)[0] == pytest.approx(best)


def test_ari_is_sklearns_on_valid_pixels():
    mask, labels = random_mask(3), torch.randint(4, (8, 12), generator=torch.Generator().manual_seed(4))
    valid = mask.valid
    assert ari(labels, mask) == pytest.approx(adjusted_rand_score(mask.labels[valid].numpy(), labels[valid].numpy()))
    assert ari(mask.labels + 5, mask) == 1


def test_layers_are_chosen_by_ari():
    mask, chosen = random_mask(), Clusterings(2)
    chosen.add([torch.zeros_like(mask.labels), mask.object.long()], mask)
    assert chosen.best() == 1


def test_interval_is_of_the_mean():
    mean, low, high = interval([0.0, 1.0, 0.0, 1.0])
    assert mean == 0.5 and high - mean == pytest.approx(1.96 * np.std([0, 1, 0, 1], ddof=1) / 2) and low == 1 - high
    assert interval([0.3]) == (0.3, 0.3, 0.3)


@pytest.fixture(scope="module")
def subject(digits_run, photos):
    return open_subject(digits_run, images=photos / "images")


def test_what_is_scored_does_not_choose(subject, photos, tmp_path):
    """Other masks on the scored half change its scores, and nothing that was chosen."""
    labelled = read_masks(photos / "images", photos / "masks", [3])
    before, _ = score_model(subject, "trained", labelled, 12, NoBar())
    shutil.copytree(photos / "masks", tmp_path / "masks")
    for _, mask in labelled.halves()[1]:
        shutil.copy(photos / "masks" / "p0.png", tmp_path / "masks" / mask.name)
    after, _ = score_model(subject, "trained", read_masks(photos / "images", tmp_path / "masks", [3]), 12, NoBar())
    assert [one.chosen for one in before] == [one.chosen for one in after]
    assert [one.iou for one in before] != [one.iou for one in after]
    assert all(len(one.ari) == 3 for one in before)


def test_the_section_has_every_method_and_beats_nothing_by_chance(subject, photos, softmax_run):
    plan = prepare_scores(subject, photos / "masks", ([3], []), softmax_run, 12)
    section = score_section(plan)
    rows = {(r["model"], r["method"]): r for r in section.parts[1].rows}
    names = {method for model, method in rows if model == "trained"}
    assert names == {method for model, method in rows if model == "untrained"} and len(names) == 5
    assert {method for model, method in rows if model == "baseline"} == {m for m in names if "member" not in m}
    everything = rows["no model", "everything"]
    shares = [
        m.object.sum() / m.valid.sum() for m in (plan.labelled.read(p, (8, 12)) for _, p in plan.labelled.pairs[1::2])
    ]
    assert everything["iou"] == pytest.approx(float(sum(shares)) / 3, abs=0.05) and everything["ari"] == 0
    assert rows["trained", "k-means of each picture"]["iou"] is None
    assert "object is label 1 of 1, 2" in section.text


def test_the_untrained_model_is_the_one_that_training_began_with(subject):
    from tost.training.build import build_images, build_model

    state = torch.random.get_rng_state()
    found, expected = (
        subject.untrained().state_dict(),
        build_model(subject.recipe, build_images(subject.recipe)).state_dict(),
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    torch.random.set_rng_state(state)
    subject.untrained()
    assert torch.equal(torch.random.get_rng_state(), state)
