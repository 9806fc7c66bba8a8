"""One reader for every kind of image, and one short message for everything that is none."""

import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from htc.config import BitDepth
from htc.data.image_headers import image_size
from htc.data.images import read_image
from htc.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("ending", ["png", "tiff", "webp", "bmp"])
def test_lossless_formats(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"picture.{ending}"
    Image.fromarray(RGB).save(path, lossless=True)
    assert np.array_equal(read_image(path), RGB)
    assert np.array_equal(read_image(str(path)), RGB)
    assert image_size(path) == (12, 17)


def test_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.full((20, 30, 3), (200, 100, 50), np.uint8)).save(path, quality=95)
    assert np.abs(read_image(path).astype(int) - (200, 100, 50)).max() <= 3


def test_array_and_image_and_file_agree(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.png")
    for source in (RGB, image, tmp_path / "a.png", np.dstack([RGB, RGB[:, :, :1]])):
        assert np.array_equal(read_image(source), RGB)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB[:, :, 0]).convert("RGB").convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_image(path)
    assert found.shape == (12, 17, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.array(image.convert("RGB")))


def test_transparency_is_dropped_and_colors_stay() -> None:
    clear = np.dstack([RGB, np.zeros((12, 17), np.uint8)])
    assert np.array_equal(read_image(Image.fromarray(clear, "RGBA")), RGB)


@pytest.mark.parametrize(("top", "depth"), [(65535, 16), (4095, 12), (255, 8), (0, 8)])
def test_sixteen_bits_by_the_bit_depth(tmp_path: Path, top: int, depth: int) -> None:
    """The smallest depth that holds the brightest value is 0..255: a 12-bit micrograph is not black."""
    values = np.linspace(0, top, 200).astype(np.uint16).reshape(10, 20)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    expected = np.rint(values / (2**depth - 1) * 255)
    for source in (path, values):
        found = read_image(source, intensity=BitDepth())
        assert np.abs(found - expected[:, :, None]).max() <= 1
    assert read_image(path, intensity=BitDepth()).max() == round(top / (2**depth - 1) * 255)


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_color(tmp_path: Path, ending: str, channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 4096, (9, 8, channels)).astype(np.uint16)
    values[0, 0] = 4095
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), values)
    found = read_image(path, intensity=BitDepth())
    assert np.abs(found - values[:, :, 2::-1] / 4095 * 255).max() <= 1
    assert np.abs(read_image(path) - values[:, :, 2::-1] / 65535 * 255).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """Checked against the definition: what row 0 and column 0 of the stored image show."""
    upright = RGB
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert image_size(path) == (12, 17)


def test_one_pixel() -> None:
    assert read_image(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", 0)
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jpg", None, "no such file"),
        ("folder.jpg", "folder", "is a folder"),
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"this is no image at all", "not an image"),
        ("bomb.png", png_header(60000, 60000), "more than 178956970"),
        ("hollow.png", png_header(10, 10), "damaged or incomplete"),
        ("truncated.jpg", "truncated", "damaged or incomplete"),
        ("header.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "not an image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes | str | None, says: str) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "truncated":
        Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)).save(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with pytest.raises(DataError, match=r"204 pixels \(17x12\), more than 200"):
        read_image(path, max_pixels=200)
    assert read_image(path, max_pixels=204).shape == (12, 17, 3)


def test_pillows_own_limit_does_not_interfere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raised limit is honoured although Pillow alone would refuse, and Pillow's settings stay as they were."""
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert np.array_equal(read_image(path), RGB)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((3, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 3, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="an array of shape"):
        read_image(array)


@pytest.mark.parametrize("image", [Image.new("F", (3, 3)), Image.new("I", (3, 3), 70000)])
def test_ranges_that_are_not_known(image: Image.Image) -> None:
    with pytest.raises(DataError, match="convert it to 8 or 16 bits"):
        read_image(image)


def test_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    equal: list[bool] = []
    threads = [threading.Thread(target=lambda: equal.append(np.array_equal(read_image(path), RGB))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 8
