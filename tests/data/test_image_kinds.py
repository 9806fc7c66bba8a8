"""Formats, orientations, pages and damaged files: the header agrees with the pixels, and every fault is a DataError."""

import itertools
import logging
import random
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from data.image_files import stored, write_gray_alpha_png, write_tiff
from htc.config import FixedRange
from htc.data.image_headers import IMAGE_SUFFIXES, image_header, image_size, page_count
from htc.data.image_pages import file_and_page
from htc.data.images import read_image
from htc.errors import DataError

SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[:12, :20, 0] = 250
SCENE[12:, 20:, 1] = 200
SAVED = {
    "png": {},
    "jpg": {"quality": 100, "subsampling": 0},
    "webp": {"lossless": True},
    "tif": {},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("suffix", SAVED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored(SCENE, orientation)).save(path, exif=exif, **SAVED[suffix])
    assert image_size(path) == (24, 40)
    assert np.abs(read_image(path).astype(int) - SCENE).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "CMYK", "LA", "I;16", "F"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_tiff_tags(tmp_path: Path, mode: str, orientation: int) -> None:
    pixels = stored(SCENE, orientation)
    kinds = {
        "I;16": lambda: Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257),
        "F": lambda: Image.fromarray(pixels[:, :, 0].astype(np.float32) / 255),
    }
    image = kinds[mode]() if mode in kinds else Image.fromarray(pixels).convert(mode)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    path = tmp_path / "a.tif"
    image.save(path, tiffinfo=tags)
    height, width = pixels.shape[:2]
    assert image_header(path)[:3] == (height, width, orientation)
    assert image_size(path) == (24, 40)
    found = read_image(path, intensity=FixedRange())
    assert found.shape == (24, 40, 3)
    if mode in ("RGB", "RGBA", "F"):
        assert np.array_equal(found[:, :, 0], SCENE[:, :, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_of_16_bit_colors(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, (stored(SCENE, orientation).astype(np.uint16) * 257, {274: orientation}))
    assert image_size(path) == (24, 40)
    assert np.array_equal(read_image(path), SCENE)


@pytest.mark.parametrize("suffix", ["gif", "jp2", "ppm", "pgm", "bmp", "dib", "jfif", "jpe", "apng", "avif", "webp"])
def test_every_format_has_its_suffix(tmp_path: Path, suffix: str) -> None:
    assert f".{suffix}" in IMAGE_SUFFIXES
    path = tmp_path / f"a.{suffix}"
    gray = Image.fromarray(SCENE).convert("L")
    gray.save(path, "BMP" if suffix == "dib" else None, quality=100)
    assert image_size(path) == (24, 40)
    assert np.abs(read_image(path).astype(int) - np.array(gray)[:, :, None]).max() <= 3


@pytest.mark.parametrize("transparency", [0, b"\x00\xff" * 8])
def test_a_palette_with_transparency_keeps_its_colors(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(SCENE).quantize(16)
    image.save(tmp_path / "a.png", transparency=transparency)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.array(image.convert("RGB")))


def test_gray_with_alpha_of_16_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 6, 2)).astype(np.uint16)
    write_gray_alpha_png(tmp_path / "a.png", values)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(np.rint(values[:, :, :1] / 257), 3, axis=2))


def test_colors_that_cannot_be_converted_are_named() -> None:
    with pytest.raises(DataError, match="colors of the kind La"):
        read_image(Image.new("La", (3, 3)))


FRAMES = [np.full((10, 12, 3), (value, 10, 200), np.uint8) for value in (0, 120, 250)]


def stack(path: Path) -> Path:
    """Three pages or frames."""
    first, *others = (Image.fromarray(frame) for frame in FRAMES)
    first.save(path, save_all=True, append_images=others, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_pages_and_frames(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    path = stack(tmp_path / f"a.{suffix}")
    assert image_header(path).pages == page_count(path) == page_count(path.open("rb")) == 3
    for number, frame in enumerate(FRAMES, 1):
        page = f"{path}#{number}"
        assert np.array_equal(read_image(page), frame)
        assert np.array_equal(read_image(path, page=number), frame)
        assert image_size(Path(page)) == (10, 12)
        assert page_count(page) == 1
    for source in (f"{path}#4", Path(f"{path}#4")):
        with pytest.raises(DataError, match=r"has no page 4: it has 3"):
            read_image(source)
    assert caplog.records == []
    with caplog.at_level(logging.WARNING, "htc"):
        assert np.array_equal(read_image(path, page=None), FRAMES[0])
    assert [f"{path} has 3 pages or frames" in record.message for record in caplog.records] == [True]


def test_a_file_with_the_name_of_a_page_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png#2"
    Image.fromarray(FRAMES[1]).save(path, "PNG")
    assert file_and_page(path) == (path, None)
    assert np.array_equal(read_image(path), FRAMES[1])
    for name in ("a.png", "a.png#", "#2", "a.png#0", "a.png#x", "a.png#-1"):
        assert file_and_page(Path(name)) == (Path(name), None)


def test_pages_of_16_bit_colors_and_of_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    second = np.ascontiguousarray(SCENE[::-1, :20])
    write_tiff(path, (SCENE.astype(np.uint16) * 257, {}), (second.astype(np.uint16) * 257, {}))
    assert np.array_equal(read_image(path), SCENE)
    assert np.array_equal(read_image(f"{path}#2"), second)
    assert image_size(Path(f"{path}#2")) == (24, 20)


def test_overviews_and_masks_of_a_tiff_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, (SCENE, {254: 0}), (SCENE[::2, ::2], {254: 1}), (SCENE[::-1], {254: 2}), (SCENE, {254: 4}))
    assert page_count(path) == 2
    assert np.array_equal(read_image(f"{path}#2"), SCENE[::-1])


def test_heic_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr("htc.extras._is_installed", lambda module: module != "pillow_heif")
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(DataError, match=r"pip install 'hybrid-task-cascade\[heic\]'"):
        read_image(path)


def test_broken_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").mkdir()
    for read in (read_image, image_header):
        with pytest.raises(DataError, match="a link to a file that does not exist"):
            read(tmp_path / "a.png")
        with pytest.raises(DataError, match="is a folder"):
            read(tmp_path / "b.png")


def refused(path: Path) -> None:
    """Reading the file either works or raises a `DataError`."""
    for read in (read_image, image_header):
        with suppress(DataError):
            read(path)


def test_files_of_one_to_three_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for count in (1, 2, 3):
        for content in itertools.product(b"\0\nPB6GIM*\xff\xd8\x89", repeat=count):
            path.write_bytes(bytes(content))
            with pytest.raises(DataError, match="not an image"):
                read_image(path)
            refused(path)


def kinds(folder: Path) -> list[Path]:
    """A file of each format, with pages, deep values and transparency."""
    for suffix in ("png", "jpg", "webp", "tif", "avif", "gif", "bmp", "ppm", "jp2"):
        Image.fromarray(SCENE).save(folder / f"plain.{suffix}")
    for suffix in ("tif", "gif", "webp", "png", "avif"):
        stack(folder / f"stack.{suffix}")
    deep = SCENE.astype(np.uint16) * 257
    write_tiff(folder / "deep.tif", (deep, {274: 6}), (deep, {}))
    write_gray_alpha_png(folder / "deep.png", deep[:, :, :2])
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_files_that_are_cut_or_changed_anywhere(tmp_path: Path, seed: int) -> None:
    files, draw = kinds(tmp_path), random.Random(seed)
    for _ in range(100):
        source = draw.choice(files)
        content = bytearray(source.read_bytes())
        content = content[: draw.randrange(1, len(content))] if draw.random() < 0.5 else content
        for _ in range(draw.randrange(4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path = tmp_path / f"changed{source.suffix}"
        path.write_bytes(content)
        refused(path)


def test_8_bit_pixels_are_those_of_the_decoder(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), numbers[:, :, ::-1])
    assert np.array_equal(read_image(tmp_path / "a.png"), numbers)
    Image.fromarray(numbers).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(read_image(tmp_path / "a.jpg"), np.array(image))
