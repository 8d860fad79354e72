"""Sums over batches give what all samples at once give."""

import itertools

import pytest
import torch

from tost.analysis.incoherence import coherences, random_coherence, summary
from tost.analysis.parameter_figure import layer_means, parameter_figure, read_parameters
from tost.analysis.statistics import Covariance, Gathered, Spread, affordable, effective_rank, entropy, exact_rate
from tost.analysis.text import bins
from tost.rates import compression_rate, projected_rate


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("cuts", [[10], [1, 4, 5], [3, 3, 3, 1]])
def test_streamed_singular_values_are_those_of_all_features(cuts):
    features = draw(10, 7, 5) + 3
    sums = Covariance()
    for part in features.split(cuts):
        sums.add(part)
    rows = features.flatten(0, 1)
    expected = torch.linalg.svdvals(rows - rows.mean(0)) / len(rows) ** 0.5
    assert torch.allclose(sums.singular_values(), expected, atol=1e-10) and sums.count == 70


def test_streamed_mean_and_deviation():
    values, sums = draw(100), Spread()
    for part in values.split(7):
        sums.add(part)
    assert sums.mean == pytest.approx(float(values.mean())) and sums.sd == pytest.approx(
        float(values.std(correction=0))
    )


def test_effective_rank_of_equal_values_is_their_number():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_rank(torch.tensor([1.0, 0.0])) == pytest.approx(1)
    assert torch.allclose(entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).exp(), torch.tensor([2.0, 1.0]).double())


def test_the_exact_rate_is_below_the_variational_one_and_equal_for_uncorrelated_features():
    w, pi = draw(3, 20, 4, 5), torch.softmax(draw(3, 20, 4, seed=1), -1)
    exact, bound = exact_rate(w, pi), projected_rate(w, pi)
    assert (exact < bound).all()
    alone = draw(1, 20, 1, 5)
    basis = torch.linalg.eigh(alone[0, :, 0].T @ alone[0, :, 0])[1]
    turned, whole = (alone[:, :, 0] @ basis)[:, :, None], torch.ones(1, 20, 1, dtype=torch.float64)
    assert torch.allclose(exact_rate(turned, whole), projected_rate(turned, whole))
    assert torch.allclose(exact_rate(alone, whole), exact_rate(turned, whole))
    per_group = compression_rate(alone[:, :, 0], whole, f=torch.log1p)
    assert torch.allclose(exact_rate(alone, whole), per_group)


def test_dear_rates_are_bounded():
    assert affordable(4, 64, 96, 6) == 64 and affordable(8, 784, 384, 12) == 27
    assert affordable(16, 10**5, 768, 24) == 2


def test_coherence_tells_overlapping_heads_from_orthogonal_ones():
    import tost

    model = tost.create_model("tost_nano_6_p1", dim=16, num_layers=1, num_heads=2, num_classes=2)
    with torch.no_grad():
        model.blocks[0].mixer.in_proj.weight.copy_(3 * torch.eye(16))
    assert summary(coherences(model)["blocks.0"]) == {"within": 0, "between": 0}
    with torch.no_grad():
        model.blocks[0].mixer.in_proj.weight[8:] = -torch.eye(16)[:8]  # head 2 spans what head 1 spans
    found = summary(coherences(model)["blocks.0"])
    assert found["within"] == 0 and found["between"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("features", [3, 64])
def test_random_coherence_is_what_random_directions_have(features):
    unit = torch.nn.functional.normalize(draw(3000, features), dim=1)
    found = (unit[:1500] @ unit[1500:].T).abs().mean()
    assert float(found) == pytest.approx(random_coherence(features), rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 256, 4096])
def test_bins_cover_every_position_once(count):
    found = list(itertools.chain.from_iterable(range(first, last + 1) for first, last in bins(count)))
    assert found == list(range(1, count + 1))


PARAMETERS = """step,parameter,index,value
0,blocks.0.mixer.temperature,0,1
0,blocks.0.mixer.temperature,1,3
0,blocks.0.gamma1,,1
0,cls_blocks.0.gamma1,,7
5,model.blocks.0.mixer.temperature,0,2
5,model.blocks.0.mixer.temperature,1,4
5,blocks.0.gamma1,,0.5
"""


def test_parameters_are_read_by_layer(tmp_path):
    (tmp_path / "p.csv").write_text(PARAMETERS)
    rows = read_parameters(tmp_path / "p.csv")
    assert layer_means([r for r in rows if r["kind"] == "temperature"]) == {(1, 0): 2, (1, 5): 3}
    assert layer_means([r for r in rows if r["kind"] == "gamma1"]) == {(1, 0): 1, (1, 5): 0.5}
    assert parameter_figure(rows) is not None and parameter_figure(rows[:3]) is None


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,parameter,index,value\nx,blocks.0.gamma1,,1\n"])
def test_other_parameter_files_are_refused(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=r"p\.csv"):
        read_parameters(tmp_path / "p.csv")


def test_gathered_stops_the_dear_rates_but_not_the_others():
    from tost.analysis.recorders import Sight

    found = Gathered(depth=10**9)

    class Identity:
        mixer = type("M", (), {"project": staticmethod(lambda x: x.unflatten(-1, (2, 2)))})
        norm1 = staticmethod(lambda x: x)

    for seed in range(3):
        tokens, pi = draw(4, 6, 4, seed=seed), torch.softmax(draw(4, 6, 2, seed=seed), -1)
        found.see(Sight("b", Identity, tokens, tokens, pi))
    sums = found.layers["b"]
    assert sum(map(len, sums.exact)) == 12 and sum(map(len, sums.coding)) == 2
    assert sums.effective.count == 3 * 4 * 6
