"""Every parameter is optimised once, and decays only if it should."""

import pytest
import torch
from torch import nn

from tost.models import create_model, list_models
from tost.training.groups import parameter_groups


@pytest.mark.parametrize("name", list_models("*_p[148]*"))
def test_every_parameter_is_in_one_group(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=7)
    grouped = [p for group in parameter_groups(model, 1e-3, 0.05) for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}


def test_only_matrices_and_filters_decay():
    model = create_model("tost_nano_6_p2", num_classes=7)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, free = set(), set()
    for group in parameter_groups(model, 1e-3, 0.05):
        (decayed if group["weight_decay"] else free).update(names[id(p)] for p in group["params"])
    assert all(name.endswith("weight") for name in decayed)
    assert {"cls_token", "norm.weight", "head.bias", "blocks.0.gamma1", "blocks.3.mixer.temperature"} <= free
    assert {"head.weight", "blocks.0.mixer.in_proj.weight", "blocks.5.mlp.fc1.weight"} <= decayed


def test_frozen_parameters_stay_out():
    model = create_model("tost_nano_6_p2", num_classes=7)
    model.patch_embed.requires_grad_(False)
    grouped = {id(p) for group in parameter_groups(model, 1e-3, 0.05) for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_module_excludes_its_own_matrix():
    class Prototypes(nn.Module):
        undecayed = ("bank",)

        def __init__(self):
            super().__init__()
            self.bank = nn.Parameter(torch.ones(3, 3))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = Prototypes(), nn.Linear(3, 3)

    free = [g for g in parameter_groups(Whole(), 1e-3, 0.05) if not g["weight_decay"]]
    assert [tuple(p.shape) for p in free[0]["params"]] == [(3, 3), (3,)]
    Prototypes.undecayed = ("banks",)
    with pytest.raises(ValueError, match=r"Prototypes .*'banks'"):
        parameter_groups(Whole(), 1e-3, 0.05)


def test_layer_decay_falls_towards_the_stem():
    model = create_model("tost_nano_6_p2", num_classes=7)
    rate = {id(p): g["lr"] for g in parameter_groups(model, 1.0, 0.0, layer_decay=0.5) for p in g["params"]}
    rates = [rate[id(p)] for p in (model.head.weight, model.blocks[5].norm1.weight, model.blocks[0].norm1.weight)]
    assert rates == [1.0, 0.5, 0.5**6]
    assert {rate[id(p)] for p in model.patch_embed.parameters()} == {0.5**7}
