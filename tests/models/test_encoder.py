import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.models import ToST
from tost.nn import MIXERS

N, C = 9, 16


def encoder(**options):
    return scramble(ToST(2, C, 4, **options).double(), std=0.1)


def tokens(batch=2):
    return torch.randn(batch, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_blocks_then_norm():
    model, x = encoder(), tokens()
    want = model.norm(model.blocks[1](model.blocks[0](x)))
    assert_close(model(x), want, rtol=0, atol=0)


def test_the_articles_interface():
    with torch.device("meta"):
        model = ToST(num_layers=12, dim=768, heads=12)
        default = ToST()
    assert (len(model.blocks), model.dim, model.num_heads) == (12, 768, 12)
    assert {n: p.shape for n, p in default.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert default.blocks[0].mixer.num_heads == 12
    with pytest.raises(ValueError, match="another name for num_heads"):
        ToST(1, 16, 4, heads=4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_changes_no_real_token(mixer):
    model, x = encoder(mixer=mixer), tokens()
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, 2] = mask[0, 6:] = False
    kept = x[:1, mask[0]]
    assert_close(model(x, mask=mask)[:1, mask[0]], model(kept), rtol=1e-10, atol=1e-11)


def test_packed_sequences():
    model, x = encoder(), tokens(1)
    alone = torch.cat([model(x[:, :4]), model(x[:, 4:])], 1)
    assert_close(model(x, cu_seqlens=torch.tensor([0, 4, N])), alone, rtol=1e-11, atol=1e-12)


def test_every_parameter_learns_and_exclusions_exist():
    model = encoder()
    assert all(g is not None and g.abs().max() > 0 for g in gradients(model, model(tokens())).values())
    assert model.no_weight_decay() == {
        f"blocks.{i}.{n}" for i in range(2) for n in ("mixer.temperature", "gamma1", "gamma2")
    }


def test_every_argument_changes_something():
    block = ToST(
        1, C, 4, mixer="xca", mlp_ratio=2, drop=0.1, attn_drop=0.2, drop_path=0.3, layer_scale_init=0.5
    ).blocks[0]
    assert block.mixer_name == "xca" and block.mlp.fc1.out_features == 2 * C and block.drop_path.rate == 0.3
    assert block.mlp.drop.p == 0.1 and block.mixer.attn_drop == 0.2 and block.gamma1[0] == 0.5
    assert ToST(1, C, 4, layer_scale_init=None).blocks[0].gamma1 is None


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"ToST expects tokens of shape \[B, N, 16\]"):
        encoder()(tokens()[..., 1:])
    with pytest.raises(ValueError, match="splits dim into num_heads"):
        ToST(1, 10, 4)
