"""Small finished runs and photographs with masks, made once."""

import random

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("transformers")

TINY = {
    "model.name": "tost_nano_6_p1",
    "model.options": {"dim": 16, "num_layers": 2, "num_heads": 2, "num_cls_layers": 1},
    "run.batch_size": 128,
    "run.epochs": 0.5,
}
WORDS = {
    "model.preset": "nano",
    "model.options": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "layer_scale_init": 1.0},
    "data.source": "files",
    "data.tokenizer": "bytes",
    "data.context": 16,
    "data.test": 0.1,
    "data.validation": 0.1,
    "optim.warmup_steps": 5,
    "run.batch_size": 16,
    "run.steps": 8,
    "run.checkpoint_steps": 8,
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def digits_run(runs):
    from tost.training import train

    return train("vision-digits", **TINY, **{"run.folder": str(runs), "run.name": "digits"})


@pytest.fixture(scope="session")
def softmax_run(runs):
    from tost.training import train

    changes = {"run.folder": str(runs), "run.name": "softmax", "model.mixer": "softmax", "run.epochs": 0.2}
    return train("vision-digits", **{**TINY, **changes})


@pytest.fixture(scope="session")
def text_run(runs):
    from tost.training import train

    chance, folder = random.Random(0), runs / "text"
    folder.mkdir()
    for i in range(40):
        words = [chance.choice(["<b>", "a & b", "'q'", "x\ny"]) for _ in range(30)]
        (folder / f"{i}.txt").write_text(" ".join(words) + str(i))
    return train("lm-text", **WORDS, **{"data.path": str(folder), "run.folder": str(runs), "run.name": "language"})


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Six photographs of 24 x 16 pixels, a bright object on noise, and their masks: 1 object, 2 ground, 3 rim."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir(), (folder / "masks").mkdir()
    chance = np.random.RandomState(0)
    for i in range(6):
        top, left = chance.randint(1, 8), chance.randint(1, 14)
        mask = np.full((16, 24), 2, dtype=np.uint8)
        mask[top - 1 : top + 7, left - 1 : left + 9] = 3
        mask[top : top + 6, left : left + 8] = 1
        picture = chance.randint(0, 60, (16, 24, 3)) + 180 * (mask == 1)[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"p{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"p{i}.png")
    return folder
