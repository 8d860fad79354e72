import pytest
import torch
from torch.testing import assert_close

from tests.models.test_vision import images, nano
from tost.nn import use_backend


@pytest.mark.parametrize("backend", [None, "eager"], ids=["automatic", "eager"])
@pytest.mark.filterwarnings("ignore")
def test_compiles_as_one_graph(backend):
    model = use_backend(nano(num_layers=2), backend).train()
    x = images(model)
    wanted = torch.autograd.grad(model(x).square().sum(), model.parameters())
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x).square().sum(), model.parameters())
    for (n, _), a, b in zip(model.named_parameters(), found, wanted):
        assert_close(a, b, rtol=1e-3, atol=1e-4, msg=n)


@pytest.mark.filterwarnings("ignore")
def test_exports_with_any_batch():
    model = nano(num_layers=2).eval()
    exported = torch.export.export(model, (images(model),), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    operators = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
    assert not [o for o in operators if o.startswith("tost")]  # standard operators only
    x = torch.cat([images(model, seed=2), images(model, seed=3)])[:3]
    assert_close(exported.module()(x), model(x), rtol=1e-5, atol=1e-6)
