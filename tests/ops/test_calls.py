"""Bad calls: one line that says the operation, what it expected, what it got and the way out."""

import pytest
import torch

from tests.ops.common import BACKENDS, causal_tssa, tssa
from tost.ops import TSSAState, which_backend

W, T = torch.randn(2, 6, 3, 4), torch.ones(3)
NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"w": W[0]}, [r"\[B, N, H, D\]", r"\(6, 3, 4\)", "unflatten"]),
        ({"w": W.long()}, ["float32", "int64"]),
        ({"w": torch.randn(2, 6, 0, 4), "temperature": torch.ones(0)}, ["at least one head"]),
        ({"temperature": torch.ones(3, 1)}, [r"\[H\] = \[3\]", r"\(3, 1\)", "squeeze"]),
        ({"temperature": torch.ones(4)}, [r"\(4,\)"]),
        ({"mask": torch.ones(2, 5, dtype=torch.bool)}, [r"\[2, 6\]", r"\(2, 5\)"]),
        ({"mask": torch.ones(2, 6)}, ["bool", "float32"]),
        ({"cu_seqlens": torch.tensor([0, 6])}, ["B = 1", "got B = 2"]),
        ({"w": W[:1], "cu_seqlens": torch.tensor([0, 4, 3, 6])}, ["rise from 0 to N = 6", r"\[0, 4, 3, 6\]"]),
        ({"w": W[:1], "cu_seqlens": torch.tensor([0, 4])}, ["rise from 0 to N = 6"]),
        ({"w": W[:1], "cu_seqlens": torch.tensor([1, 6])}, ["rise from 0"]),
        ({"w": W[:1], "cu_seqlens": torch.tensor([0.0, 6.0])}, ["int32 or int64", "float32"]),
        ({"backend": "gpu"}, ["unknown backend 'gpu'", "eager"]),
    ],
)
@pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
def test_errors_name_the_way_out(op, arguments, words):
    with pytest.raises(ValueError) as caught:
        op(**{"w": W, "temperature": T, **arguments})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert caught.match(word)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"position_bias": torch.zeros(3, 5)}, ["6 positions", "got 5", "extend"]),
        ({"position_bias": torch.zeros(3, 6, 1)}, ["squeeze"]),
        (
            {
                "position_bias": torch.zeros(3, 7),
                "state": TSSAState.zeros(2, 3, 4)._replace(length=torch.tensor([0, 2])),
            },
            ["8 positions"],
        ),
        ({"decay": torch.ones(2)}, [r"\[3\]", r"\(2,\)"]),
        ({"decay": torch.tensor([0.5, 1.0, 1.5])}, [r"\(0, 1\]", "1.5"]),
        ({"decay": torch.tensor([0.5, 0.0, 1.0])}, [r"\(0, 1\]"]),
        ({"decay": torch.tensor([0.5, NAN, 1.0])}, [r"\(0, 1\]", "nan"]),
        ({"state": TSSAState.zeros(1, 3, 4)}, ["state.energy", r"\[2, 3, 4\]", r"\[1, 3, 4\]"]),
        ({"state": TSSAState.zeros(2, 3, 5)}, ["state.energy", "select"]),
    ],
)
def test_causal_errors(arguments, words):
    with pytest.raises(ValueError) as caught:
        causal_tssa(**{"w": W, "temperature": T, **arguments})
    for word in words:
        assert caught.match(word)


def test_a_backend_declines_with_its_reason():
    with pytest.raises(ValueError, match=r"backend='cpu' declines: .*meta.*backend=None"):
        tssa(W.to("meta"), T.to("meta"), backend="cpu")


def test_automatic_choice():
    assert which_backend(W) == "cpu"
    assert which_backend(W.to("meta")) == "eager"
    assert tssa(W.to("meta"), T.to("meta")).shape == W.shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
def test_nan_tokens_are_not_hidden(op, backend):
    """A NaN in a real token spoils its own sequence, visibly, and no other."""
    w = W.clone()
    w[0, 2, 1, 3] = NAN
    y = op(w, T, backend=backend)
    assert y[0, 2:].isnan().any()
    assert not y[1].isnan().any()
