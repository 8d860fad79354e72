"""Vision models and blocks of a comparison: ours, the published ones with the same weights, and the softmax twins."""

# B images, N tokens, C features

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tost.bench.gate import HALF_RIVALS, Check, relative_error
from tost.bench.measure import Call
from tost.bench.published_vision import PublishedBlock, PublishedVision
from tost.bench.settings import DTYPES
from tost.models import create_model, model_config
from tost.models.official import to_official
from tost.nn import Block

LOGITS = 1e-4  # of the largest, in float32 through a whole model
BLOCK = 5e-5  # of the largest, in float32: the mixer is a small part of a block's output
MIXERS = {"tost": "tssa", "softmax": "softmax", "xca": "xca", "linear": "linear"}
LABELS = {
    "published": "published, eager",
    "softmax": "softmax attention, fused (SDPA)",
    "xca": "cross-covariance attention (XCA)",
    "linear": "linear attention, plain torch",
    "tost": "tost",
    "tost_usual": "tost, torch's usual matrix products",
}
DIM, HEADS = 384, 8  # of ToST-S


def pair(name: str, image_size: int) -> tuple[nn.Module, nn.Module]:
    """Our model with random weights and the published one holding the same."""
    config = model_config(name)
    ours = twin(name, "tssa", image_size)
    theirs = PublishedVision(config.patch_size, config.dim, config.num_layers, config.num_heads).eval()
    theirs.load_state_dict(to_official(ours.state_dict()))
    return ours, theirs


def twin(name: str, mixer: str, image_size: int) -> nn.Module:
    """The model of a name with another mixer in every block."""
    torch.manual_seed(0)
    return create_model(name, img_size=image_size, mixer=mixer).eval()


def images(count: int, size: int, dtype: str = "float32", device: str = "cpu") -> Tensor:
    """[B, 3, size, size], the same at every call."""
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x.to(device, DTYPES[dtype])


@torch.no_grad()
def check_vision(ours: nn.Module, theirs: nn.Module, x: Tensor) -> Check:
    """Logits of our model in its precision against the published one's in float64."""
    expected = theirs.double()(x.double())
    allowed = LOGITS if x.dtype == torch.float32 else HALF_RIVALS[str(x.dtype)[6:]]
    return Check(f"vision model, {x.shape[-1]} px: logits", relative_error(ours(x), expected), allowed)


def block(name: str, dtype: str = "float32", device: str = "cpu") -> nn.Module:
    """One block of ToST-S's size; ours and the published one hold the same weights."""
    torch.manual_seed(0)
    made: nn.Module = Block(DIM, HEADS, MIXERS.get(name, "tssa"))
    if name == "published":
        made = published_block(made)
    return made.to(device, DTYPES[dtype])


def published_block(ours: nn.Module) -> PublishedBlock:
    """The published block with the weights of one of ours."""
    theirs = PublishedBlock(DIM, HEADS, 1.0)
    names = {"mixer.in_proj": "attn.qkv", "mixer.out_proj": "attn.to_out.0"}
    state = {}
    for name, value in ours.state_dict().items():
        if name == "mixer.temperature":
            state["attn.temp"] = value.unsqueeze(-1)
        else:
            start, _, end = name.rpartition(".")
            state[f"{names.get(start, start)}.{end}" if start else name] = value
    theirs.load_state_dict(state)
    return theirs


def block_call(made: nn.Module, count: int, train: bool, dtype: str, device: str) -> Call:
    """A pass of N tokens, with the gradients of input and weights if `train`."""
    x, g = block_inputs(count, dtype, device)
    if not train:
        return torch.no_grad()(lambda: made(x))
    parameters = [x.requires_grad_(), *made.parameters()]
    return lambda: torch.autograd.grad(made(x), parameters, g)


def block_inputs(count: int, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """x and the cotangent of the output, [1, N, C]."""
    generator = torch.Generator().manual_seed(count)
    x, g = (torch.randn(1, count, DIM, generator=generator).to(device, DTYPES[dtype]) for _ in range(2))
    return x, g


def check_block(name: str, count: int, dtype: str, device: str) -> Iterator[Check]:
    """Output and input gradient of a block against float64, of ours against the published formula's.

    In half precision the same block is checked in float32 too, where more is seen.
    """
    definition = "published" if name == "tost" else name

    def outputs(made: nn.Module, x: Tensor, g: Tensor) -> Sequence[Tensor]:
        x = x.clone().requires_grad_()
        y = made(x)
        return y.detach(), *torch.autograd.grad(y, x, g)

    for precision in dict.fromkeys((dtype, "float32")):
        x, g = block_inputs(count, precision, device)
        expected = outputs(block(definition, precision, device).double(), x.double(), g.double())
        got = outputs(block(name, precision, device), x, g)
        allowed = BLOCK if precision == "float32" else HALF_RIVALS[precision]
        for what, a, b in zip(("output", "input gradient"), got, expected):
            yield Check(f"{name} block, N{count}, {precision}: {what}", relative_error(a, b), allowed)


def block_calls(name: str, counts: Sequence[int], train: bool, dtype: str, device: str) -> Iterator[Call]:
    """The calls whose peaks are measured; the kernels are warm before."""
    made = block(name, dtype, device)
    block_call(made, 128, train, dtype, device)()
    for count in counts:
        yield block_call(made, count, train, dtype, device)
