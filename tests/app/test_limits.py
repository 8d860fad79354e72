"""Uploads are judged by what they hold: bombs, broken and disguised files are refused, odd ones are read."""

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from tests.app.pictures import bomb, halves, noise
from tost.app import limits
from tost.app.limits import KEPT_SIDE, check_prompt, read_picture


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    path = bomb(tmp_path / "bomb.png")
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="more than 50 million pixels"):
        read_picture(path)


@pytest.mark.parametrize(("width", "height"), [(7072, 7072), (1, 50_000_001)])
def test_a_picture_just_above_the_limit_is_refused(tmp_path, width, height):
    with pytest.raises(ValueError, match="million pixels"):
        read_picture(bomb(tmp_path / "large.png", width, height))


def test_a_truncated_jpeg_is_damaged(tmp_path):
    path = tmp_path / "half.jpg"
    Image.fromarray(noise(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="damaged"):
        read_picture(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", b"just a text"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("svg.png", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
        ("header.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("program.jpg", b"MZ" + bytes(500)),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
    ],
)
def test_what_is_no_picture_is_refused_whatever_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"not a picture that the page can read|damaged"):
        read_picture(tmp_path / name)


def test_an_empty_and_a_large_file_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="empty"):
        read_picture(tmp_path / "empty.png")
    Image.fromarray(noise(64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(limits, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="MB"):
        read_picture(tmp_path / "large.png")


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 257 * 50], [257 * 200, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    got = np.asarray(read_picture(tmp_path / "deep.png"))
    assert (got == np.array([[0, 50], [200, 255]])[..., None]).all()


def test_cmyk_becomes_rgb(tmp_path):
    halves().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    got = np.asarray(read_picture(tmp_path / "print.jpg")).astype(int)
    assert abs(got[10, 5] - [255, 0, 0]).max() < 40 and abs(got[10, 35] - [0, 0, 255]).max() < 40


def test_what_is_transparent_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    got = np.asarray(read_picture(tmp_path / "palette.png"))
    assert got[0, 0].tolist() == [255, 255, 255] and got[0, 1].tolist() == [200, 100, 50]
    Image.new("RGBA", (3, 3), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert abs(int(np.asarray(read_picture(tmp_path / "half.png"))[0, 0, 0]) - 127) <= 1


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "one.bmp")
    assert np.asarray(read_picture(tmp_path / "one.bmp")).tolist() == [[[77, 77, 77]]]


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_of_several_frames_the_first_is_taken(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    frames[0].save(tmp_path / "film", kind, save_all=True, append_images=frames[1:])
    assert abs(np.asarray(read_picture(tmp_path / "film"))[4, 4].astype(int) - [250, 0, 0]).max() < 8


def test_a_picture_stands_upright_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned a quarter
    halves().save(tmp_path / "turned.png", exif=exif)
    got = read_picture(tmp_path / "turned.png")
    assert got.size == (20, 40)
    assert got.getpixel((10, 5)) == (255, 0, 0) and got.getpixel((10, 35)) == (0, 0, 255)


def test_a_large_picture_is_shrunk(tmp_path):
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(noise(3000, 300, 1)).save(tmp_path / "wide.jpg", exif=exif)
    assert read_picture(tmp_path / "wide.jpg").size == (205, KEPT_SIDE)
    Image.new("P", (5000, 100)).save(tmp_path / "palette.png")
    assert max(read_picture(tmp_path / "palette.png").size) == KEPT_SIDE


def test_prompts_are_bounded():
    assert check_prompt("def") == "def"
    for wrong, told in (("", "a few characters"), ("x" * 4001, "4,001 characters")):
        with pytest.raises(ValueError, match=told):
            check_prompt(wrong)
