"""Label maps as programs write them: how many instances, what is printed, and what is refused by name."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.formats.converted import Converted
from htc.data.formats.layouts import convert_data
from htc.data.formats.map_rules import MapOptions, parse_map_options
from htc.data.formats.recognize import read_other
from htc.errors import ConfigError, DataError

SIZE = (48, 64)
SQUARES = ((4, 4), (4, 40), (28, 4))


def picture(path: Path, size: tuple[int, int] = SIZE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0])).save(path, **options)
    return path


def save(path: Path, values: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))).save(path, **options)
    return path


def squares(*values: float, background: int = 0, kind: Any = np.uint8) -> np.ndarray:
    """A map of 16 x 16 squares with these values."""
    drawn = np.full(SIZE, background, kind)
    for value, (y, x) in zip(values, SQUARES, strict=False):
        drawn[y : y + 16, x : x + 16] = value
    return drawn


def read(folder: Path, options: str = "auto") -> Converted:
    data = read_other(folder, parse_map_options(options))
    assert data is not None
    return data


def counts(data: Converted, part: str = "train") -> dict[str, int]:
    return {image.path.name: len(image.objects) for image in data.parts[part]}


def one_map(folder: Path, values: Any, name: str = "a.png", **options: Any) -> Path:
    picture(folder / "images" / "a.png")
    save(folder / "masks" / name, values, **options)
    return folder


def jpeg(values: np.ndarray, quality: int) -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


def void_border(background: int, void: int, kind: Any) -> np.ndarray:
    values = squares(background=background, kind=kind)
    for value, (y, x) in enumerate(SQUARES[:2], start=1):
        values[y - 2 : y + 18, x - 2 : x + 18] = void
        values[y : y + 16, x : x + 16] = value
    return values


WHITE_ON_COLORS = np.full((*SIZE, 3), 255, np.uint8)
WHITE_ON_COLORS[4:20, 4:20], WHITE_ON_COLORS[4:20, 40:56] = (255, 0, 0), (0, 80, 0)
INVERTED = squares(0, 0, background=255)
PALETTE = Image.fromarray(squares(1, 2, 3))
PALETTE.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10, 10, 10, 200])
WHITE_FIRST = Image.fromarray(squares(0, 0, background=1))
WHITE_FIRST.putpalette([255, 255, 255, 0, 0, 0])
TRANSPARENT = Image.fromarray(np.dstack([np.zeros((*SIZE, 3), np.uint8), squares(255, 255)]), "RGBA")
VOC_COLORS = np.zeros((*SIZE, 3), np.uint8)
VOC_COLORS[2:22, 2:22], VOC_COLORS[4:20, 4:20], VOC_COLORS[28:40, 28:40] = (224, 224, 192), (128, 0, 0), (0, 128, 0)


@pytest.mark.parametrize(
    ("values", "instances", "note"),
    [
        (squares(1, 2, 3), 3, "each value is an instance; 0 is background"),
        (squares(1, 500, 65000, kind=np.uint16), 3, "0 is background"),
        (squares(1, 70000, 3, kind=np.int32), 3, "0 is background"),
        (squares(1.0, 2.0, 3.0, kind=np.float32), 3, "each value is an instance"),
        (void_border(0, 255, np.uint8), 2, "255 is void"),
        (void_border(0, 65535, np.uint16), 2, "65535 is void"),
        (void_border(-1, -2, np.int32), 2, "-1 is background; -2 is void"),
        (void_border(0, -1, np.int32), 2, "0 is background; -1 is void"),
        (squares(1, 2, 3, background=255), 3, "255 is background"),
        (squares(0, 1, 2, background=255), 3, "255 is background"),
        (squares(1, 2, 3, background=65535, kind=np.uint16), 3, "65535 is background"),
        (squares(0, 1, 2, background=-1, kind=np.int32), 3, "-1 is background"),
        (squares(2, 3, 4, background=1), 3, "1 is background"),
        (squares(85, 170, 255), 3, "0 is background"),
        (squares(1, 1, 1), 3, "each connected region"),
        (squares(255, 255, 255), 3, "each connected region"),
        (squares(True, True, True, kind=bool), 3, "each connected region"),
        (INVERTED, 2, "the dark pixels are the foreground"),
        (jpeg(squares(255, 255, 255), 60), 3, "smoothed or compressed edges"),
        (Image.fromarray(squares(255, 255, 255)).filter(ImageFilter.GaussianBlur(2)), 3, "smoothed or compressed"),
        (squares(0.9, 0.8, 0.9, kind=np.float32), 3, "each"),
        (WHITE_ON_COLORS, 2, "255, 255, 255) is background"),
        (VOC_COLORS, 2, "224, 224, 192) is void"),
        (PALETTE, 3, "each value is an instance"),
        (WHITE_FIRST, 2, "each connected region"),
        (TRANSPARENT, 2, "each connected region"),
    ],
)
def test_values(tmp_path: Path, values: Any, instances: int, note: str) -> None:
    floating = isinstance(values, np.ndarray) and values.dtype.kind in "fi"
    data = read(one_map(tmp_path, values, "a.tif" if floating else "a.png"))
    assert counts(data) == {"a.png": instances}
    assert any(note in line for line in data.notes), data.notes
    assert any("--label-maps" in line for line in data.notes)


@pytest.mark.parametrize(
    ("values", "options", "instances"),
    [
        (void_border(0, 255, np.uint8), "instances,void=none", 3),
        (squares(1, 2, 3, background=255), "background=0", 3),
        (squares(1, 2, 2), "components", 3),
        (squares(1, 2, 2), "instances", 2),
        (squares(1, 2, 3), "void=1+3", 1),
        (INVERTED, "components,background=0", 1),
        (squares(255, 255, 255), "instances", 1),
    ],
)
def test_options_overrule_the_decision(tmp_path: Path, values: np.ndarray, options: str, instances: int) -> None:
    assert counts(read(one_map(tmp_path, values), options)) == {"a.png": instances}


def test_values_that_are_classes(tmp_path: Path) -> None:
    folder = one_map(tmp_path, squares(1, 2, 2))
    data = read(folder, "classes")
    assert data.classes == ("1", "2")
    assert [one.category for one in data.parts["train"][0].objects] == [0, 1, 1]
    (folder / "classes.txt").write_text("background\ncat\ndog\n", encoding="utf-8")
    assert read(folder, "classes").classes == ("cat", "dog")
    (folder / "classes.txt").write_text("horse\ncow\n", encoding="utf-8")
    assert read(folder, "classes").classes == ("horse", "cow")


def test_separate_regions_of_a_value_are_reported(tmp_path: Path) -> None:
    assert any("--label-maps classes" in note for note in read(one_map(tmp_path, squares(1, 2, 2))).notes)
    assert not any("classes;" in note for note in read(one_map(tmp_path, squares(1, 2, 3))).notes)


@pytest.mark.parametrize(
    ("values", "name", "says"),
    [
        (jpeg(squares(80, 160, 240), 80), "a.png", r"masks/a\.png has \d+ values.*without smoothing"),
        (Image.fromarray(squares(80, 160, 240)), "a.jpg", r"masks/a\.jpg has \d+ values.*JPEG changes the values"),
        (
            Image.fromarray(squares(80, 160, 240)).resize((97, 73)).resize((64, 48)),
            "a.png",
            r"masks/a\.png.*smoothing",
        ),
        (np.linspace(0, 9, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE), "a.tif", "floating-point values"),
    ],
)
def test_maps_that_are_refused_by_name(tmp_path: Path, values: Any, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(one_map(tmp_path, values, name))


def test_binary_maps_of_two_kinds(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 255)):
        picture(tmp_path / "images" / f"{name}.png")
        save(tmp_path / "masks" / f"{name}.png", squares(value, value))
    data = read(tmp_path)
    assert counts(data) == {"a.png": 2, "b.png": 2}
    assert any("the foreground is 1 or 255" in note for note in data.notes)


def test_maps_that_differ_from_the_folder_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png")
        save(tmp_path / "masks" / f"{name}.png", squares(255, 255) if name != "c" else 255 - squares(255, 255))
    assert any("covers most of the border in c.png" in note for note in read(tmp_path).notes)


def test_stacks_of_images_and_maps(tmp_path: Path) -> None:
    pages = [Image.fromarray(squares(*range(1, number + 2))) for number in range(3)]
    for folder in ("images", "masks"):
        save(tmp_path / folder / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    data = read(tmp_path)
    assert counts(data) == {"a.tif": 1}
    assert any("3 pages" in note for note in data.notes)


def test_arrays(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "a.npy", squares(1, 2))
    assert counts(read(tmp_path)) == {"a.png": 2}
    np.save(tmp_path / "masks" / "a.npy", np.array({"masks": squares(1, 2)}), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy is not a NumPy array of numbers"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("images", "maps"),
    [
        (("a.png", "b.tif"), ("a_mask.png", "b_masks.png")),
        (("a.png", "b.png"), ("mask_a.png", "b.png")),
        (("img_a.png", "img_b.png"), ("mask_a.png", "mask_b.png")),
        (("a_img.png", "b_img.png"), ("a_cp_masks.png", "b_masks.png")),
        (("a.jpg", "b.jpg"), ("a.jpg.png", "b.jpg.png")),
        (("x 1.png", "x 2.png"), ("X%201.png", "x%202.tif")),
        (("é.png", "b.png"), ("e\u0301.png", "B.PNG")),
        (("a.png", "a_2.png"), ("a.png", "a_2.png")),
        (("img_1.png", "img_12.png"), ("mask_001.png", "mask_012.png")),
        (("c1.ome.tif", "c2.ome.tif"), ("c1_masks.ome.tif", "c2_masks.png")),
        (("frame.1.png", "frame.2.png"), ("frame.1-labels.png", "frame.2-seg.tif")),
    ],
)
def test_names_of_maps(tmp_path: Path, images: tuple[str, ...], maps: tuple[str, ...]) -> None:
    for number, (image, name) in enumerate(zip(images, maps, strict=True)):
        picture(tmp_path / "images" / image)
        save(tmp_path / "masks" / name, squares(*range(1, number + 2)))
    assert sorted(counts(read(tmp_path)).values()) == [1, 2]


def test_images_and_maps_without_partner_are_named(tmp_path: Path) -> None:
    one_map(tmp_path, squares(1, 2))
    picture(tmp_path / "images" / "lonely.png")
    assert any("without label map" in note and "lonely.png" in note for note in read(tmp_path).notes)
    save(tmp_path / "masks" / "other.png", squares(1))
    with pytest.raises(
        DataError, match=r"(?s)1 of 2 images have no label map \(images/lonely\.png\).*masks/other\.png"
    ):
        read(tmp_path)
    (tmp_path / "images" / "lonely.png").unlink()
    assert any("without image" in note and "other.png" in note for note in read(tmp_path).notes)


def test_one_map_of_two_images(tmp_path: Path) -> None:
    one_map(tmp_path, squares(1, 2))
    picture(tmp_path / "images" / "a.jpg")
    with pytest.raises(
        DataError, match=r"masks/a\.png is the only label map of 2 images.*images/a\.jpg and images/a\.png"
    ):
        read(tmp_path)


def test_two_maps_of_one_image(tmp_path: Path) -> None:
    one_map(tmp_path, squares(1, 2))
    save(tmp_path / "masks" / "a.jpg", Image.fromarray(squares(1, 2, 3)))
    assert counts(read(tmp_path)) == {"a.png": 2}
    save(tmp_path / "masks" / "a.tif", squares(1, 2, 3))
    with pytest.raises(DataError, match=r"images/a\.png has 3 label maps|has 2 label maps"):
        read(tmp_path)


def folder_for_each_image(root: Path) -> None:
    for name in ("n1", "n2"):
        picture(root / name / "images" / f"{name}.png")
        for number, (y, x) in enumerate(SQUARES):
            mask = np.zeros(SIZE, np.uint8)
            mask[y : y + 20, x : x + 20] = 255
            save(root / name / "masks" / f"{name}{number}.png", mask)


def folder_of_masks(root: Path) -> None:
    for name in ("n1", "n2"):
        picture(root / "images" / f"{name}.png")
        for number in range(3):
            save(root / "masks" / name / f"{number}.png", squares(*[1] * (number + 1)))


def numbered_masks(root: Path) -> None:
    for name in ("n1", "n2"):
        picture(root / "images" / f"{name}.png")
        for number in range(3):
            save(root / "masks" / f"{name}_{number}.png", squares(*[255] * (number + 1)))


def pages(root: Path) -> None:
    for name in ("n1", "n2"):
        picture(root / "images" / f"{name}.png")
        stack = [Image.fromarray(squares(*[255] * (number + 1))) for number in range(3)]
        save(root / "masks" / f"{name}.tif", stack[0], save_all=True, append_images=stack[1:])


@pytest.mark.parametrize("make", [folder_for_each_image, folder_of_masks, numbered_masks, pages])
def test_one_file_or_page_for_each_instance(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    assert counts(read(tmp_path)) == {"n1.png": 3, "n2.png": 3}


def test_classes_in_names_and_folders(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "cam" / "a.png")
    for name in ("cat_1", "cat_2", "dog_1"):
        save(tmp_path / "masks" / "cam" / f"a_{name}.png", squares(255))
    data = read(tmp_path)
    assert data.classes == ("cat", "dog")
    assert sorted(one.category for one in data.parts["train"][0].objects) == [0, 0, 1]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/images/a.png", "train/masks/a.png"),
        ("Images/train/a.png", "GroundTruth/train/a.png"),
        ("train/a.png", "train_masks/a_mask.gif"),
        ("a.tif", "a_masks.tif"),
        ("train/a_img.png", "train/a_masks.png"),
        ("images/deep/er/a.png", "labels/deep/er/a.png"),
        ("training/images/a.png", "training/label/a.png"),
    ],
)
def test_layouts(tmp_path: Path, image: str, mask: str) -> None:
    picture(tmp_path / image)
    save(tmp_path / mask, squares(1, 2, 3))
    assert list(counts(read(tmp_path)).values()) == [3]


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    one_map(tmp_path, squares(1, 2))
    for folder in ("images", "masks"):
        for hidden in (".ipynb_checkpoints/a.png", "._a.png", "__MACOSX/a.png", ".DS_Store"):
            path = tmp_path / folder / hidden
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\x00\x05\x16\x07")
    data = read(tmp_path)
    assert data.classes == ("object",)
    assert counts(data) == {"a.png": 2}


def test_the_map_of_a_turned_photo_as_it_is_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "a.jpg", exif=exif)
    save(tmp_path / "masks" / "a.png", squares(1, 2))
    data = read(tmp_path)
    assert (data.parts["train"][0].height, data.parts["train"][0].width) == SIZE[::-1]
    splits = convert_data(tmp_path, tmp_path / "out").splits
    boxes = [one.box for one in read_coco(splits.train_annotations, splits.train_images).images[0].instances]
    assert boxes == [(28, 4, 44, 20), (28, 40, 44, 56)]


def test_dataset_from_folder_takes_the_option(tmp_path: Path) -> None:
    one_map(tmp_path, squares(1, 2, 2))
    assert len(Dataset.from_folder(tmp_path).images[0].instances) == 2
    assert len(Dataset.from_folder(tmp_path, label_maps="components").images[0].instances) == 3


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("auto", MapOptions()),
        ("components", MapOptions("components")),
        ("instances,background=-1", MapOptions("instances", -1)),
        ("classes, background=0, void=255+254", MapOptions("classes", 0, frozenset((254, 255)))),
        ("void=none", MapOptions(void=frozenset())),
    ],
)
def test_options_in_text(text: str, options: MapOptions) -> None:
    assert parse_map_options(text) == options


@pytest.mark.parametrize("text", ["", "semantic", "background", "background=white", "void=1,2", "auto=1"])
def test_options_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--label-maps"):
        parse_map_options(text)
