"""What the Image tab computes is what the model does: probabilities, memberships, attention and rates of that input."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("PIL")
pytest.importorskip("transformers")
from PIL import Image

from tests.app.pictures import noise
from tost.app.look import MAX_SIDE, MAX_TOKENS, grid_of, look, usual_side
from tost.app.models import choose_runs, open_vision
from tost.app.photographs import photographs
from tost.rates import record_class_attention, record_memberships, record_rates
from tost.shipped import shipped


@pytest.fixture(scope="module")
def vision():
    return open_vision(str(shipped("flowers")))


def seen_by(vision, found):
    """The input that the model was given, from the picture that is shown."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (vision.recipe.data.mean, vision.recipe.data.std))
    return ((torch.from_numpy(found.picture.copy()).movedim(-1, 0).float() / 255 - mean) / std)[None]


def test_everything_belongs_to_the_picture_that_is_shown(vision):
    found = look(vision.model, vision.recipe, vision.classes, Image.fromarray(noise(150, 100)), 6, False)
    assert found.grid == (6, 9) and found.picture.shape == (48, 72, 3) and found.tokens == 54
    x = seen_by(vision, found)
    with torch.no_grad():
        shares = vision.model(x).softmax(-1)[0]
    assert list(found.probabilities) == vision.classes
    assert_close(torch.tensor(list(found.probabilities.values())), shares, atol=1e-5, rtol=0)
    for name, pi in record_memberships(vision.model, x).items():
        assert_close(found.memberships[name], pi[0])
        assert_close(found.memberships[name].sum(1), torch.ones(54))
    for name, weights in record_class_attention(vision.model, x).items():
        assert_close(found.attention[name], weights[0])
    assert_close(found.rates.after, record_rates(vision.model, x).after)


def test_the_square_is_the_crop_of_evaluation(vision):
    from tost.data.folders import centre_crop
    from tost.data.images import ImageOptions

    image = Image.fromarray(noise(151, 100))
    found = look(vision.model, vision.recipe, vision.classes, image, usual_side(vision.model, vision.recipe), True)
    data = vision.recipe.data
    expected = centre_crop(image, ImageOptions(data.image_size, data.crop_ratio))
    assert np.array_equal(found.picture, np.array(expected))


@pytest.mark.parametrize(
    ("height", "width", "side", "grid"),
    [(100, 100, 12, (12, 12)), (100, 150, 12, (12, 18)), (150, 100, 12, (18, 12)), (1, 1, 64, (64, 64))],
)
def test_the_grid_has_the_shape_of_the_picture(height, width, side, grid):
    assert grid_of(height, width, side) == grid


def test_the_grid_stays_within_the_limit_for_any_shape():
    chance = np.random.default_rng(0)
    for height, width, side in chance.integers(1, [10_000, 10_000, 500], (300, 3)):
        rows, columns = grid_of(height, width, side)
        assert rows >= 1 and columns >= 1 and rows * columns <= MAX_TOKENS and min(rows, columns) <= MAX_SIDE
    assert grid_of(1, 40_000, 64) == (1, MAX_TOKENS) and grid_of(5, 5, -3) == (1, 1)


def test_one_pixel_and_a_thread_of_pixels_can_be_looked_at(vision):
    for size in ((1, 1), (1, 300)):
        found = look(vision.model, vision.recipe, vision.classes, Image.fromarray(noise(*size)), 4, False)
        assert all(torch.isfinite(pi).all() for pi in found.memberships.values())


def test_a_model_without_memberships_shows_its_classes_alone(vision):
    from tost.models import create_model

    other = create_model("tost_nano_6_p8", num_classes=5, img_size=96, mixer="softmax").eval()
    found = look(other, vision.recipe, vision.classes, Image.fromarray(noise(50, 50)), 4, True)
    assert found.memberships == {} and found.rates is None and len(found.probabilities) == 5 and found.attention


def test_a_model_of_grey_digits_takes_colour(tmp_path):
    from types import SimpleNamespace

    from tost.models import create_model

    grey = create_model("tost_nano_6_p1", num_classes=10, in_chans=1, img_size=8).eval()
    data = SimpleNamespace(source="digits", crop_ratio=0.875, mean=[0.3], std=[0.4], image_size=8)
    recipe = SimpleNamespace(data=data, objective=SimpleNamespace(loss="cross_entropy"))
    image = Image.fromarray(noise(16, 16))
    found = look(grey, recipe, [str(i) for i in range(10)], image, 8, True)
    expected = np.array(image.convert("L").resize((8, 8), Image.Resampling.BICUBIC))
    assert (found.picture == expected[..., None]).all()  # the whole of it: digits are not cropped


def test_photographs_come_from_installed_packages():
    names = [name for _, name in photographs()]
    assert len(names) == len(set(names)) and all(image.mode == "RGB" for image, _ in photographs())
    pytest.importorskip("sklearn")
    assert "flower" in names and photographs([str(i) for i in range(10)])[0][1] == "a 0"


def test_one_run_of_each_kind(tmp_path):
    flowers = str(shipped("flowers"))
    assert choose_runs(["flowers"]) == choose_runs([flowers]) == choose_runs([])
    assert choose_runs([])[0] == flowers
    with pytest.raises(ValueError, match="one vision run"):
        choose_runs([flowers, "flowers"])
    with pytest.raises(ValueError, match="no such run"):
        choose_runs([str(tmp_path / "absent")])
