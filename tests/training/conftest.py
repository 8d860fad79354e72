import pytest

# A model and a recipe small enough to train in a second: 4 tokens, one block of width 16.
TINY = {
    "model.name": "tost_nano_6_p4",
    "model.options": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_cls_layers": 1},
    "run.batch_size": 128,
    "run.epochs": 2,
    "run.checkpoint_epochs": 0.3,
}


@pytest.fixture
def tiny(tmp_path):
    return {**TINY, "run.folder": str(tmp_path / "runs")}
