import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import scramble
from tost.nn import TSSA, TSSA2d

B, C, H, W = 2, 12, 5, 7
# of the largest output; half precision rounds the projections too
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def maps(dtype=torch.float64):
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_is_the_layer_over_positions_with_the_same_weights():
    flat = scramble(TSSA(C, 3).double())
    m = TSSA2d(C, 3).double()
    m.load_state_dict(flat.state_dict())
    x = maps()
    want = flat(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(B, C, H, W)
    assert_close(m(x), want, rtol=1e-12, atol=1e-12)


def test_memory_format_is_kept():
    m, x = scramble(TSSA2d(C, 3).double()), maps()
    last = x.contiguous(memory_format=torch.channels_last)
    assert m(x).is_contiguous()
    assert m(last).is_contiguous(memory_format=torch.channels_last)
    assert_close(m(last), m(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
def test_lower_precision(dtype):
    m = scramble(TSSA2d(C, 3).double())
    x = maps().requires_grad_()
    want = m(x)
    want_grad = torch.autograd.grad(want.sum(), x)[0]
    small = x.detach().to(dtype).requires_grad_()
    got = m.to(dtype)(small)
    got_grad = torch.autograd.grad(got.float().sum(), small)[0]
    assert got.dtype == dtype and got_grad.dtype == dtype
    for a, b in ((got, want), (got_grad, want_grad)):
        assert (a.double() - b).abs().max() <= TOLERANCE[dtype] * b.abs().max()


def test_masked_positions_change_no_other():
    m, x = scramble(TSSA2d(C, 3).double()), maps()
    mask = torch.ones(B, H, W, dtype=torch.bool)
    mask[:, :, 5:] = False
    assert_close(m(x, mask=mask)[..., :5], m(x[..., :5].contiguous()), rtol=1e-12, atol=1e-12)


def test_wrong_maps_are_refused():
    with pytest.raises(ValueError, match=r"TSSA2d expects a feature map \[B, 12, H, W\]"):
        TSSA2d(C, 3)(torch.zeros(B, H, W, C))


def test_every_argument_changes_something():
    x = maps()
    assert TSSA2d(C, 3, bias=False).in_proj.bias is None and TSSA2d(C, 3, backend="eager").backend == "eager"
    assert (TSSA2d(C, 3, proj_drop=0.5).double().train()(x) == 0).float().mean() > 0.3
    dropped = scramble(TSSA2d(C, 3, attn_drop=0.5).double())
    assert not torch.equal(dropped.train()(x), dropped.eval()(x))


@pytest.mark.filterwarnings("ignore")
def test_onnx_with_any_batch_and_size(tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    m = scramble(TSSA2d(C, 3, backend="eager")).eval()
    batch, height, width = (torch.export.Dim(n, min=1, max=512) for n in ("batch", "height", "width"))
    path = str(tmp_path / "layer.onnx")
    torch.onnx.export(
        m, (maps(torch.float32),), path, dynamo=True, verbose=False, dynamic_shapes=({0: batch, 2: height, 3: width},)
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((B, C, H, W), (1, C, 9, 4), (3, C, 1, 2)):
        x = torch.randn(shape)
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert_close(torch.from_numpy(got), m(x), rtol=1e-4, atol=1e-5)
