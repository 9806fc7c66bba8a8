"""The page and the folder of a whole data set."""

import re
from pathlib import Path

import pytest
from PIL import Image

from checks.data_sets import clean
from checks.faults import FIXED, KEPT
from htc.checks.examine import examine_root, read_request
from htc.checks.findings import Finding
from htc.checks.page import BOX, HEIGHT, OUTLINE, WIDTH, thumbnail
from htc.cli.app import run
from htc.errors import DataError


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Of a data set with several faults."""
    folder = tmp_path_factory.mktemp("page")
    data = clean(folder / "data")
    wanted = {"polygon-odd", "object-tiny", "picture-turned", "semantic-range", "picture-leaked", "picture-unlisted"}
    for code, fault in [*FIXED, *KEPT]:
        if code in wanted:
            wanted.remove(code)
            fault(data)
    data.objects[2]["category_id"] = 42
    data.objects[3]["bbox"] = [80.0, 25.0, 20.0, 15.0]
    data.train["categories"][0]["name"] = "<b>disc</b>"
    data.write()
    parts = [data.root, "--semantic", data.maps, "--html", folder / "page.html", "--fix", folder / "fixed.json"]
    assert run(["doctor", *map(str, parts)]) == 1
    return (folder / "page.html").read_text()


def test_page_names_every_fault_with_images(page):
    for code in (
        "polygon-odd",
        "box-unlike-mask",
        "category-unknown",
        "object-tiny",
        "picture-turned",
        "semantic-range",
        "picture-leaked",
    ):
        assert code in page
    assert page.count("data:image/jpeg;base64,") >= 5
    assert "Corrected in" in page
    assert "Advice" in page


def test_page_needs_nothing_beside_it_and_shows_names_as_they_are(page):
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<b>disc" not in page


@pytest.mark.parametrize("box", [(10, 10, 20, 20), (-900, -900, -800, -800), (0, 0, 128, 96), (126, 90, 140, 99), None])
def test_thumbnails_show_the_place(box, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (128, 96), (0, 90, 0)).save(path)
    rings = ((12.0, 12.0, 18.0, 12.0, 18.0, 18.0),) if box == (10, 10, 20, 20) else ()
    image = thumbnail(Finding("box-outside", "x", path, 1, path, 1, box, rings))
    assert image is not None
    assert image.shape == (HEIGHT, WIDTH, 3)
    near = [bool((abs(image.astype(int) - color).max(-1) < 60).any()) for color in (BOX, OUTLINE)]
    assert near == [box is not None and box[0] >= 0, bool(rings)]


def test_no_thumbnail_without_a_readable_image(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"x")
    for image in (None, bad, tmp_path / "missing.png"):
        assert thumbnail(Finding("picture-missing", "x", Path("a.json"), 1, image)) is None


COCO = ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017", "val2017")


def coco_root(folder: Path, *without: str) -> Path:
    """COCO's layout, by moving a generated data set; `without` those parts."""
    data = clean(folder / "coco")
    places = (data.annotations, data.val_annotations, data.images, data.val_images)
    for place, name in zip(places, COCO, strict=True):
        place.rename(data.root / name)
    for name in without:
        (data.root / name).rename(folder / f"away_{name.replace('/', '_')}")
    return data.root


def test_coco_layout(tmp_path):
    root = examine_root(coco_root(tmp_path))
    assert [finding.code for finding in root.findings] == ["layout-optional"]
    assert root.splits.train_images.name == "train2017"
    assert root.splits.val_annotations is not None
    (tmp_path / "coco" / "stuffthingmaps" / "train2017").mkdir(parents=True)
    (tmp_path / "coco" / "stuffthingmaps" / "val2017").mkdir(parents=True)
    root = examine_root(tmp_path / "coco")
    assert root.findings == ()
    assert root.maps == tmp_path / "coco" / "stuffthingmaps" / "train2017"


@pytest.mark.parametrize("missing", COCO[1::2])
def test_coco_layout_without_validation_part(missing, tmp_path):
    root = examine_root(
        coco_root(tmp_path, "val2017", COCO[1]) if missing == "val2017" else coco_root(tmp_path, missing)
    )
    assert "layout-missing" in {finding.code for finding in root.findings}
    assert root.splits.val_annotations is None
    assert "cocodataset.org" in root.findings[0].what


@pytest.mark.parametrize("missing", [COCO[0], COCO[2]])
def test_coco_layout_without_training_part_says_all_that_is_missing(missing, tmp_path, capsys):
    root = coco_root(tmp_path, missing, "val2017")
    assert run(["doctor", str(root)]) == 2
    said = capsys.readouterr().err
    for place in (missing, "val2017", "stuffthingmaps"):
        assert place in said


def test_other_folders(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_request(tmp_path / "nothing")
    with pytest.raises(DataError, match="none of the known layouts"):
        read_request(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (16, 16)).save(tmp_path / name / "a.png")
    mask = Image.new("L", (16, 16))
    mask.paste(1, (4, 4, 12, 12))
    mask.save(tmp_path / "masks" / "a.png")
    request = read_request(tmp_path)
    assert [annotation["bbox"] for annotation in request.train.content["annotations"]] == [[4, 4, 8, 8]]
    assert [finding.code for finding in request.found_before] == ["layout-converted"]
