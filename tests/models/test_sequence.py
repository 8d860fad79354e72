import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.models import SequenceConfig, ToSTSequence
from tost.nn import MIXERS
from tost.nn.causal_mixers import CAUSAL_MIXERS
from tost.nn.pooling import POOLS, pool, pool_stream
from tost.nn.states import map_state, state_tensors

SMALL = {"num_classes": 3, "dim": 16, "num_layers": 2, "num_heads": 4, "mlp_dim": 24, "max_length": 64}
LENGTHS = [5, 1, 9, 4]


def model(**options):
    torch.manual_seed(0)
    sizes = {} if "in_features" in options else {"vocab_size": 11}
    return scramble(ToSTSequence(SequenceConfig(**{**SMALL, **sizes, **options})).double(), std=0.1).eval()


def sequences(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(11, (n,), generator=generator) for n in LENGTHS]


def padded(parts, left=False):
    longest = max(map(len, parts))
    x, mask = torch.zeros(len(parts), longest, dtype=torch.int64), torch.zeros(len(parts), longest, dtype=torch.bool)
    for row, part in enumerate(parts):
        place = slice(longest - len(part), None) if left else slice(0, len(part))
        x[row, place], mask[row, place] = part, True
    return x, mask


def bounds(parts):
    return torch.tensor([0, *map(len, parts)]).cumsum(0)


@pytest.mark.parametrize("how", POOLS)
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "none"])
@pytest.mark.parametrize("causal", [False, True])
def test_padded_packed_and_alone_agree(how, positions, causal):
    net, parts = model(pool=how, positions=positions, causal=causal), sequences()
    alone = torch.cat([net(part[None]) for part in parts])
    packed = net(torch.cat(parts)[None], cu_seqlens=bounds(parts))
    assert_close(packed, alone, rtol=1e-9, atol=1e-10)
    for left in (False, True):
        x, mask = padded(parts, left)
        assert_close(net(x, mask=mask), alone, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_changes_nothing_with_any_mixer(mixer):
    net, parts = model(mixer=mixer), sequences()
    x, mask = padded(parts)
    assert_close(net(x, mask=mask), torch.cat([net(part[None]) for part in parts]), rtol=1e-8, atol=1e-9)


def test_post_norm_is_the_first_transformers_order():
    net, x = model(norm_first=False), torch.randn(2, 7, 16, dtype=torch.float64)
    block = net.blocks[0]
    inner = block.norm1(x + block.mixer(x))
    assert_close(block(x), block.norm2(inner + block.mlp(inner)), rtol=0, atol=0)


def test_pairs_are_compared_as_published():
    net, parts = model(pair=True), sequences()
    x, mask = padded(parts)
    vectors = net.pooled.__func__(
        model(), net.forward_features(x, mask), mask
    )  # without a comparison: of each sequence
    u, v = vectors[0::2], vectors[1::2]
    assert_close(net(x, mask=mask), net.head(net.compare(torch.cat([u, v, u * v, u - v], -1))), rtol=0, atol=0)
    assert_close(net(torch.cat(parts)[None], cu_seqlens=bounds(parts)), net(x, mask=mask), rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="even number of sequences, got 3"):
        net(x[:3])


def test_every_token_is_classified():
    net, parts = model(per_token=True), sequences()
    x, mask = padded(parts)
    packed = net(torch.cat(parts)[None], cu_seqlens=bounds(parts))
    assert packed.shape == (1, sum(LENGTHS), 3)
    assert_close(packed[0], net(x, mask=mask)[mask], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mixer", CAUSAL_MIXERS)
@pytest.mark.parametrize("how", POOLS)
def test_a_stream_says_at_every_token_what_one_pass_says_of_the_tokens_so_far(mixer, how):
    options = {"decay": 0.9} if mixer == "tssa" else {}
    net = model(causal=True, mixer=mixer, pool=how, in_features=5, **options)
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    whole = torch.stack([net(x[:, : n + 1]) for n in range(8)], 1)
    for cut in (1, 3, 8):
        state, found = None, []
        for part in x.split(cut, 1):
            logits, _, state = net.stream(part, state)
            found.append(logits)
        assert_close(torch.cat(found, 1), whole, rtol=1e-9, atol=1e-10)
    assert state.length.tolist() == [8, 8]


def test_streams_of_a_batch_end_and_go_on_by_themselves():
    net, x = model(causal=True, in_features=5, pool="max"), torch.randn(3, 6, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    logits, _, state = net.stream(x, None, mask)
    assert state.length.tolist() == [3, 0, 6]
    assert_close(logits[0, -1], net(x[:1, mask[0]])[0], rtol=1e-9, atol=1e-10)
    one = map_state(state, lambda t: t[:1])
    assert all(t.shape[0] == 1 for t in state_tensors(one).values())
    after, _, _ = net.stream(x[:1, :2], one)
    want = net(torch.cat([x[:1, mask[0]], x[:1, :2]], 1))
    assert_close(after[:, -1], want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("how", POOLS)
def test_pooling_against_a_loop(how):
    parts = [torch.randn(n, 4, dtype=torch.float64) for n in (3, 1, 0, 5)]
    take = {"mean": lambda p: p.mean(0), "max": lambda p: p.amax(0), "last": lambda p: p[-1]}[how]
    want = torch.stack([take(p) if len(p) else torch.zeros(4, dtype=torch.float64) for p in parts])
    assert_close(pool(torch.cat(parts)[None], how, cu_seqlens=bounds(parts)), want)
    x = torch.zeros(4, 6, 4, dtype=torch.float64)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    for row, part in enumerate(parts):
        x[row, 1 : 1 + len(part)], mask[row, 1 : 1 + len(part)] = part, True
    x[:, 0] = 99.0
    assert_close(pool(x, how, mask), want)
    assert_close(pool_stream(x, how, mask)[0][:, -1], want)
    both = pool(x.flatten(0, 1)[None], how, mask.flatten()[None], torch.arange(5) * 6)
    assert_close(both, want)


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"pair": True}, {"positions": "learned"}, {"in_features": 5}]
)
def test_every_parameter_learns(options):
    net = model(**options)
    x = torch.randn(2, 9, 5, dtype=torch.float64) if "in_features" in options else torch.arange(18).view(2, 9) % 11
    silent = [n for n, g in gradients(net, net(x)).items() if g is None or not g.abs().max() > 0]
    assert not silent


def test_saved_and_loaded(tmp_path):
    net, x = model(positions="learned"), torch.arange(9)[None]
    net.save_pretrained(tmp_path)
    assert_close(ToSTSequence.from_pretrained(tmp_path).double()(x), net(x), rtol=1e-5, atol=1e-6)
    (tmp_path / "config.json").write_text('{"patch_size": 8}')
    with pytest.raises(ValueError, match="not the configuration of a ToSTSequence: it lacks vocab_size"):
        ToSTSequence.from_pretrained(tmp_path)


def test_refusals():
    with pytest.raises(ValueError, match="one of them above 0"):
        SequenceConfig()
    with pytest.raises(ValueError, match="pool is one of"):
        SequenceConfig(vocab_size=3, pool="median")
    with pytest.raises(ValueError, match="decay is of causal statistics"):
        SequenceConfig(vocab_size=3, decay=0.9)
    with pytest.raises(ValueError, match="knows ids 0 to 10, got 0 to 11"):
        model()(torch.arange(12)[None])
    with pytest.raises(ValueError, match="learned positions for 64 tokens, got 65"):
        model(positions="learned")(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"numbers of shape \[B, N, 5\]"):
        model(in_features=5)(torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="streams when it is causal"):
        model().stream(torch.arange(3)[None])
    with pytest.raises(ValueError, match="unknown causal mixer 'xca'"):
        model(causal=True, mixer="xca")
