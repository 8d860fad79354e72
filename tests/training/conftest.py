import pytest
import torch

# A model and a recipe small enough to train in a second: 4 tokens, one block of width 16.
TINY = {
    "model.name": "tost_nano_6_p4",
    "model.options": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_cls_layers": 1},
    "run.batch_size": 128,
    "run.epochs": 2,
    "run.checkpoint_epochs": 0.3,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other make models this small many times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path):
    return {**TINY, "run.folder": str(tmp_path / "runs")}
