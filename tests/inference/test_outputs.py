"""Files that appear whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc.errors import OutputError
from htc.inference.outputs import (
    PredictionWriter,
    ResultsList,
    Writer,
    results_file,
    whole_file,
    write_drawing,
    write_image,
    write_json,
    write_labelme,
)
from htc.inference.predictor import Predictor
from htc.inference.sources import Failure, ImageFile, predict_files
from htc.results import Detections, Masks
from stand_in_detector import Corners, config


def detections(count: int = 2, size: tuple[int, int] = (40, 60), source: str | None = None) -> Detections:
    boxes = np.array([[5, 5, 25, 30], [30, 10, 60, 40]], np.float32)[:count]
    probabilities = np.ones((count, 28, 28), np.float32)
    labels = np.arange(count)
    scores = np.array([0.9, 0.1], np.float32)[:count]
    return Detections(
        boxes, scores, labels, ("cell", "größe")[:count], labels + 1, Masks(probabilities, boxes, size), size, source
    )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_results_are_one_list_that_json_and_coco_tools_read(tmp_path: Path, count: int) -> None:
    path = tmp_path / "new" / "results.json"
    with results_file(path) as results:
        for image_id in (3, "b.png"):
            results.add(detections(count).to_coco(image_id))
    read = json.loads(path.read_text("utf-8"))
    assert [one["image_id"] for one in read] == [3] * count + ["b.png"] * count
    assert all(coco_mask.area(one["segmentation"]) > 0 for one in read)
    assert list(path.parent.iterdir()) == [path]


class StopError(Exception):
    pass


@pytest.mark.parametrize("before", [None, "[]"])
def test_an_interruption_leaves_the_old_file_or_none(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "results.json"
    if before is not None:
        path.write_text(before)
    with pytest.raises(StopError), results_file(path) as results:  # noqa: PT012
        results.add(detections().to_coco(1))
        raise StopError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == (
        [] if before is None else [("results.json", before)]
    )


def test_an_error_of_the_block_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "x"):
        (tmp_path / "missing").read_text()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write_json(tmp_path / "file" / "x.json", [])
    with pytest.raises(OutputError, match="it is a folder"):
        write_json(tmp_path / "folder", [])
    with pytest.raises(OutputError, match="too long"):
        write_json(tmp_path / ("x" * 300), [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


FULL = """
import resource, sys
from pathlib import Path
from htc.errors import OutputError
from htc.inference.outputs import results_file, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = Path(sys.argv[1])
for write in (lambda: write_json(folder / "a.json", list(range(50_000))), lambda: fill(folder / "b.json")):
    def fill(path):
        with results_file(path) as results:
            for number in range(5000):
                results.add([{"image_id": number}])
    try:
        write()
    except OutputError as error:
        print(error)
print(sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file size limit to stand for a full disk")
def test_a_full_disk_is_explained_and_nothing_is_left(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    first, second, left = ran.stdout.splitlines()
    assert f"cannot write {tmp_path / 'a.json'}: the file would be larger" in first
    assert f"cannot write {tmp_path / 'b.json'}: the file would be larger" in second
    assert left == "[]"


def test_full_device_is_explained() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with full.open("wb", buffering=0) as stream, pytest.raises(OutputError, match="disk is full"):
        Writer(stream, full).write(b"x")


def test_labelme_finds_its_image(tmp_path: Path) -> None:
    path = write_labelme(tmp_path / "out", "sub/one.jpg", detections(source=str(tmp_path / "in" / "sub" / "one.jpg")))
    assert path == tmp_path / "out" / "sub" / "one.json"
    content = json.loads(path.read_text("utf-8"))
    assert content["imagePath"] == "../../in/sub/one.jpg"
    assert [shape["label"] for shape in content["shapes"]] == ["cell", "größe"]


@pytest.mark.parametrize(
    ("name", "written", "kind"),
    [("a.jpg", "a.jpg", "JPEG"), ("s/a.PNG", "s/a.PNG", "PNG"), ("a.tif", "a.tif.png", "PNG")],
)
def test_drawings(tmp_path: Path, name: str, written: str, kind: str) -> None:
    path = write_drawing(tmp_path, name, detections(), np.zeros((40, 60, 3), np.uint8))
    assert path == tmp_path / written
    with Image.open(path) as image:
        assert image.format == kind
        assert image.size == (660, 440)  # 60 x 40, eleven times enlarged


def test_very_long_images_are_no_jpeg(tmp_path: Path) -> None:
    long = np.zeros((1, 70_000, 3), np.uint8)
    path = write_drawing(tmp_path, "a.jpg", detections(0, (1, 70_000)), long)
    assert path.name == "a.jpg.png"


def test_no_output_overwrites_another(tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "a.tif", "sub/a.png", "b.bmp", "b.bmp.png", "C.png", "c.png", "d.tif#1", "d.tif#2"]
    files = [ImageFile(tmp_path / "in.png", name) for name in names]
    Image.new("RGB", (60, 40)).save(tmp_path / "in.png")
    out = tmp_path / "out"
    writer = PredictionWriter(drawings=out, labelme=out, files=files)
    for file in files:
        writer.write(file, 1, detections(source=f"/data/{file.name}"))
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.json"))
    expected = ["a.jpg.json", "a.png.json", "a.tif.json", "sub/a.json", "C.png.json", "c.png.json"]
    assert written == sorted([*expected, "b.json", "b.bmp.json", "d.tif#1.json", "d.tif#2.json"])
    images = {json.loads((out / name).read_text())["imagePath"].rpartition("data/")[2] for name in written}
    assert images == {name.partition("#")[0] for name in names}
    drawings = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(drawings) == len(names)
    assert {"a.png", "a.jpg", "a.tif.png", "b.bmp.png", "b.bmp-2.png", "d.tif#2.png"} < set(drawings)


def test_long_names_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    names = ["\u00e9" * 120 + f"{number}.tif" for number in range(3)]
    paths = {write_drawing(tmp_path, name, detections(), np.zeros((40, 60, 3), np.uint8)) for name in names}
    assert len(paths) == 3
    assert all(len(path.name.encode()) <= 230 and path.suffix == ".png" for path in paths)


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    for name in ("1.png", "2.png", "4.png"):
        write_image(tmp_path / name, np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "3.png").write_bytes(b"")
    return [ImageFile(tmp_path / f"{number}.png", f"{number}.png") for number in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_files_that_cannot_be_read_are_told_and_the_rest_done(images: list[ImageFile], batch_size: int) -> None:
    failures: list[Failure] = []
    told: list[str] = []
    done = list(
        predict_files(
            Predictor(Corners(), config()),
            images,
            failures,
            batch_size,
            on_failure=lambda failure: told.append(failure.source),
        )
    )
    assert [file.name for file, _ in done] == ["1.png", "2.png", "4.png"]
    assert [len(found) for _, found in done] == [2, 2, 2]
    assert told == [failure.source for failure in failures] == [str(images[2].path), str(images[4].path)]
    assert "empty" in failures[0].message
    assert "no such file" in failures[1].message


@pytest.mark.parametrize("polygons", [False, True])
def test_a_writer_writes_what_is_asked_for(tmp_path: Path, polygons: bool) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    file = ImageFile(tmp_path / "a.png", "a.png")
    PredictionWriter().write(file, 7, detections())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    results = ResultsList()
    folder = tmp_path / "out"
    writer = PredictionWriter(results=results, polygons=polygons, drawings=folder, labelme=folder)
    writer.write(file, 7, detections())
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.png"]
    assert [one["image_id"] for one in results.results] == [7, 7]
    assert all(isinstance(one["segmentation"], list if polygons else dict) for one in results.results)
