import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import scramble
from tost.models import create_model, list_models, model_config
from tost.nn import MIXERS

SMALL = [n for n in list_models() if "nano" in n or "tiny_12" in n]


def images(model, side=2, seed=1):
    """Two images of side x (side + 1) patches."""
    p, c = model.config.patch_size, model.config.in_chans
    return torch.randn(2, c, side * p, (side + 1) * p, generator=torch.Generator().manual_seed(seed))


def nano(name="tost_nano_6_p4", **options):
    torch.manual_seed(0)
    return create_model(name, num_classes=options.pop("num_classes", 5), **options)


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    depth = min(model_config(name).num_layers, 6)  # 24 equal layers prove no more
    model = create_model(name, num_classes=7, num_layers=depth).train()
    model(images(model)).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent, f"{name}: no gradient for {silent}"


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_parameter_learns_with_every_mixer(mixer):
    model = scramble(nano(mixer=mixer).double()).train()
    model(images(model).double()).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not silent


@pytest.mark.parametrize("name", SMALL)
def test_any_divisible_size_and_no_other(name):
    model = create_model(name, num_classes=3).eval()
    p = model.config.patch_size
    for h, w in ((1, 1), (1, 5), (3, 2)):
        x = torch.randn(2, 3, h * p, w * p)
        assert model(x).shape == (2, 3)
        assert model.forward_features(x).shape == (2, 1 + h * w, model.num_features)
    if p > 1:
        with pytest.raises(ValueError, match=f"divisible by the patch {p}"):
            model(torch.randn(1, 3, p, p + 1))


@pytest.mark.parametrize("name", ["tost_nano_6_p1", "tost_tiny_12_p16"])
def test_forward_is_head_of_features_and_the_same_alone_as_in_a_batch(name):
    model = create_model(name, num_classes=3, in_chans=1).eval()
    x = images(model)
    assert_close(model.forward_head(model.forward_features(x)), model(x), rtol=0, atol=0)
    assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x), rtol=1e-4, atol=1e-5)


def test_training_returns_one_tensor():
    assert isinstance(nano().train()(images(nano())), torch.Tensor)


def test_images_without_patches_of_batch_zero():
    assert nano().eval()(torch.zeros(0, 3, 8, 8)).shape == (0, 5)


def test_checkpointing_gives_the_same_gradients():
    plain, recomputing = (nano(drop_path_rate=0.3, drop_rate=0.1).train() for _ in range(2))
    recomputing.set_grad_checkpointing()
    x, saved = images(plain, side=3), []
    for model in (plain, recomputing):
        kept = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            y = model(x)
        y.square().sum().backward()
        saved.append(sum(kept))
    for (n, a), b in zip(plain.named_parameters(), recomputing.parameters()):
        assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6, msg=n)
    assert saved[1] < saved[0] / 2
    recomputing.set_grad_checkpointing(False)
    assert recomputing.grad_checkpointing is False


def test_pooling_of_tokens_or_patches():
    token, avg = nano().eval(), nano(global_pool="avg").eval()
    x = images(token)
    features = token.forward_features(x)
    assert_close(token.forward_head(features, pre_logits=True), features[:, 0], rtol=0, atol=0)
    assert_close(avg.forward_head(features, pre_logits=True), features[:, 1:].mean(1), rtol=0, atol=0)
    assert_close(avg(x), token.head(features[:, 1:].mean(1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-4), (torch.bfloat16, 5e-2)], ids=str)
def test_other_precisions(dtype, tolerance):
    model = nano().eval()
    x, want = images(model), None
    want = model.forward_features(x)
    got = model.to(dtype).forward_features(x.to(dtype))
    assert got.dtype == dtype
    assert (got.float() - want).norm() < tolerance * want.norm()


def test_learns_to_tell_two_patterns_apart():
    model = nano("tost_nano_6_p1", in_chans=1, num_classes=2, num_layers=2).train()
    torch.manual_seed(0)
    x = torch.randn(32, 1, 8, 8) * 0.5
    y = torch.arange(32) % 2
    x[y == 0, :, :, :4] += 1.0  # bright on the left, or at the top
    x[y == 1, :, :4] += 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


def test_position_matters():
    model = nano("tost_nano_6_p1", in_chans=1).eval()
    x = torch.randn(1, 1, 8, 8)
    assert (model(x) - model(x.flip(-1))).abs().max() > 1e-4
