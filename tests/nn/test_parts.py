import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.bench.published_vision import (
    PublishedBlock,
    PublishedClassAttention,
    PublishedClassBlock,
    PublishedMlp,
    PublishedPatchEmbed,
    PublishedPositions,
)
from tost.nn import (
    TSSA,
    Block,
    CausalTSSA,
    ClassAttention,
    ClassAttentionBlock,
    ConvPatchEmbed,
    DropPath,
    FourierPositions,
    Mlp,
    init_weights,
    no_weight_decay,
    use_backend,
)

B, N, C, H = 3, 6, 16, 4


def tokens(n=N, seed=1):
    return torch.randn(B, n, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x, drop = torch.ones(4000, 2, 3), DropPath(0.25)
    y = drop(x)
    assert_close(y.unique(), torch.tensor([0.0, 4 / 3]))
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x) and torch.equal(DropPath(0.0).train()(x), x)
    with pytest.raises(ValueError, match=r"rate in \[0, 1\)"):
        DropPath(1.0)


def test_mlp():
    ours, theirs, x = scramble(Mlp(C, 40).double()), PublishedMlp(C, 40).double(), tokens()
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(x), theirs(x), rtol=0, atol=1e-14)
    dropped = scramble(Mlp(C, 40, drop=0.5).double()).train()
    assert (dropped(x) == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert Mlp(C, 40, bias=False).fc1.bias is None and Mlp(C, 40, bias=False).fc2.bias is None


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (14, 14)], ids=str)
def test_positions_are_the_published_ones(grid):
    ours, theirs = scramble(FourierPositions(C)), PublishedPositions(C)
    state = ours.state_dict()
    theirs.load_state_dict(
        {"token_projection.weight": state["proj.weight"][:, :, None, None], "token_projection.bias": state["proj.bias"]}
    )
    want = theirs(1, *grid).flatten(2).transpose(1, 2)[0]
    assert_close(ours(*grid), want, rtol=1e-5, atol=1e-6)


def test_positions_arguments_and_precision():
    assert FourierPositions(C, frequencies=8).proj.in_features == 16
    assert not torch.equal(FourierPositions(C, temperature=10.0).angles(7), FourierPositions(C).angles(7))
    half = FourierPositions(C).bfloat16()
    assert half(2, 3).dtype == torch.bfloat16
    assert_close(half.angles(200).float(), half.float().angles(200), rtol=0, atol=4e-3)  # only the result is rounded


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_patch_embedding_is_the_published_one(patch, training):
    ours, theirs = scramble(ConvPatchEmbed(patch, 3, C).double()), PublishedPatchEmbed(patch, 3, C).double()
    names = list(theirs.state_dict())
    assert len(names) == len(ours.state_dict())
    theirs.load_state_dict(dict(zip(names, ours.state_dict().values())))
    ours.train(training), theirs.train(training)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64).requires_grad_()
    (y, grid), (z, *want_grid) = ours(x), theirs(x)
    assert list(grid) == want_grid == [32 // patch, 48 // patch]
    assert_close(y, z, rtol=1e-10, atol=1e-11)
    mine, others = gradients(ours, y, x), gradients(theirs, z, x)
    for a, b in zip(mine.values(), others.values()):
        assert_close(a, b, rtol=1e-8, atol=1e-9)
    for a, b in zip(ours.buffers(), theirs.buffers()):  # running statistics moved alike
        assert_close(a, b)


@pytest.mark.parametrize("patch, convolutions", [(1, 1), (2, 1), (4, 2), (8, 3), (16, 4)])
def test_patch_sizes(patch, convolutions):
    stem = ConvPatchEmbed(patch, 1, C)
    assert len(stem.layers) == convolutions
    assert stem(torch.zeros(1, 1, 16, 32))[1] == (16 // patch, 32 // patch)


def test_patch_embedding_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="patch_size of 1, 2, 4, 8 or 16, got 14"):
        ConvPatchEmbed(14, 3, C)
    with pytest.raises(ValueError, match="halves dim 3 times"):
        ConvPatchEmbed(16, 3, 12)
    for shape in ((1, 3, 30, 32), (1, 3, 32, 30), (1, 1, 32, 32), (3, 32, 32)):
        with pytest.raises(ValueError, match="divisible by the patch 8"):
            ConvPatchEmbed(8, 3, C)(torch.zeros(shape))


def test_class_attention_is_the_published_one():
    ours, theirs = scramble(ClassAttention(C, H).double()), PublishedClassAttention(C, H).double()
    theirs.load_state_dict(ours.state_dict())
    x = tokens(N + 1).requires_grad_()
    y, z = ours(x[:, :1], x[:, 1:]), theirs(x)[:, :1]
    assert_close(y, z, rtol=1e-11, atol=1e-12)
    mine, others = gradients(ours, y, x), gradients(theirs, z, x)
    for name, grad in mine.items():
        assert_close(grad, others[name], rtol=1e-9, atol=1e-11)


def test_class_attention_map_and_mask():
    m, x = scramble(ClassAttention(C, H).double()), tokens(N + 1)
    cls, patches = x[:, :1], x[:, 1:]
    p = m.weights(cls, patches)
    assert p.shape == (B, H, 1 + N)
    assert_close(p.sum(-1), torch.ones(B, H, dtype=torch.float64))
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[:, 2] = False
    assert m.weights(cls, patches, mask)[:, :, 3].abs().max() == 0
    kept = patches[:, mask[0]]
    assert_close(m(cls, patches, mask), m(cls, kept), rtol=1e-12, atol=1e-12)


def test_class_attention_arguments():
    x = tokens(N + 1)
    assert ClassAttention(C, H, bias=False).qkv.bias is None
    for option in ("attn_drop", "proj_drop"):
        m = scramble(ClassAttention(C, H, **{option: 0.5}).double())
        assert not torch.equal(m.train()(x[:, :1], x[:, 1:]), m.eval()(x[:, :1], x[:, 1:]))
    # with dropped weights the value's bias counts by what was kept, as when it is added to every value
    m = scramble(ClassAttention(C, H, attn_drop=0.5).double()).train()
    torch.manual_seed(3)
    p = m.attn_drop(m.weights(x[:, :1], x[:, 1:]))
    value = torch.nn.functional.linear(x, m.qkv.weight[2 * C :], m.qkv.bias[2 * C :]).view(B, N + 1, H, C // H)
    torch.manual_seed(3)
    assert_close(m(x[:, :1], x[:, 1:]), m.proj(torch.einsum("bhn,bnhd->bhd", p, value).flatten(1)[:, None]))


def test_class_attention_block_is_the_published_one():
    ours, theirs = scramble(ClassAttentionBlock(C, H).double()), PublishedClassBlock(C, H, 1.0).double()
    theirs.load_state_dict(ours.state_dict())
    x = tokens(N + 1).requires_grad_()
    y, z = torch.cat(ours(x[:, :1], x[:, 1:]), 1), theirs(x)
    assert_close(y, z, rtol=1e-11, atol=1e-12)
    mine, others = gradients(ours, y, x), gradients(theirs, z, x)
    for name, grad in mine.items():
        assert_close(grad, others[name], rtol=1e-9, atol=1e-11)


def test_class_attention_block_arguments():
    block = ClassAttentionBlock(
        C, H, mlp_ratio=2, bias=False, drop=0.1, attn_drop=0.2, layer_scale_init=0.5, norm_eps=1e-3
    )
    assert block.mlp.fc1.out_features == 2 * C and block.attn.qkv.bias is None
    assert block.attn.proj_drop.p == block.mlp.drop.p == 0.1 and block.attn.attn_drop.p == 0.2
    assert block.gamma1.unique().tolist() == block.gamma2.unique().tolist() == [0.5]
    assert block.norm1.eps == block.norm2.eps == 1e-3
    x, mask = tokens(N + 1), torch.ones(B, N, dtype=torch.bool)
    mask[:, 4:] = False
    block = scramble(ClassAttentionBlock(C, H).double())
    assert_close(block(x[:, :1], x[:, 1:], mask)[0], block(x[:, :1], x[:, 1:5])[0], rtol=1e-12, atol=1e-12)


def test_block_is_the_published_one():
    ours, theirs = scramble(Block(C, H).double()), PublishedBlock(C, H, 1.0).double()
    names = {"attn.temp": ("mixer.temperature", (H, 1)), "attn.qkv": "mixer.in_proj", "attn.to_out.0": "mixer.out_proj"}
    state = ours.state_dict()
    mapped = {}
    for name, t in theirs.state_dict().items():
        if name == "attn.temp":
            mapped[name] = state["mixer.temperature"].view(*names[name][1])
            continue
        prefix, _, last = name.rpartition(".")
        mapped[name] = state[f"{names.get(prefix, prefix)}.{last}" if prefix else name]
        assert mapped[name].shape == t.shape
    theirs.load_state_dict(mapped)
    assert_close(ours(tokens()), theirs(tokens()), rtol=1e-11, atol=1e-12)


def test_block_arguments():
    block = Block(
        C, H, mlp_ratio=2, bias=False, drop=0.1, attn_drop=0.2, drop_path=0.3, layer_scale_init=0.5, norm_eps=1e-3
    )
    assert block.mlp.fc1.out_features == 2 * C
    assert block.mlp.fc1.bias is None and block.mixer.in_proj.bias is None
    assert block.mlp.drop.p == block.mixer.proj_drop.p == 0.1 and block.mixer.attn_drop == 0.2
    assert block.drop_path.rate == 0.3 and block.norm1.eps == block.norm2.eps == 1e-3
    assert block.gamma1.unique().tolist() == block.gamma2.unique().tolist() == [0.5]


def test_block_without_layer_scale_equals_scale_one():
    scaled, bare = Block(C, H).double(), Block(C, H, layer_scale_init=None).double()
    bare.load_state_dict({n: t for n, t in scaled.state_dict().items() if "gamma" not in n})
    assert_close(bare(tokens()), scaled(tokens()), rtol=1e-12, atol=1e-12)
    assert no_weight_decay(bare) == {"mixer.temperature"}


def test_drop_path_in_a_block_skips_both_branches():
    block, x = scramble(Block(C, H, drop_path=0.999).double()).train(), tokens()
    torch.manual_seed(0)
    assert_close(block(x), x, rtol=0, atol=0)


def test_exclusions_from_weight_decay_are_each_modules_own():
    model = torch.nn.Sequential(TSSA(C, H), CausalTSSA(C, H, max_positions=3), CausalTSSA(C, H), Block(C, H, "xca"))
    assert no_weight_decay(model) == {
        "0.temperature",
        "1.temperature",
        "1.position_bias",
        "2.temperature",
        "3.mixer.temperature",
        "3.gamma1",
        "3.gamma2",
    }
    model[0].undecayed = ("temprature",)
    with pytest.raises(ValueError, match="TSSA excludes 'temprature'"):
        no_weight_decay(model)


def test_use_backend_reaches_every_layer():
    model = torch.nn.Sequential(TSSA(C, H), Block(C, H), CausalTSSA(C, H), Block(C, H, "xca"))
    assert use_backend(model, "eager") is model
    assert [model[0].backend, model[1].mixer.backend, model[2].backend] == ["eager"] * 3
    assert not hasattr(model[3].mixer, "backend")


def test_initial_weights():
    torch.manual_seed(0)
    model = scramble(Block(64, 4))
    init_weights(model)
    assert model.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.mixer.in_proj.bias.abs().max() == 0
