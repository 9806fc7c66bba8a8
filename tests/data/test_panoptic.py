"""Semantic targets from COCO panoptic annotations, from folders, and with instances over them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.ground_truth import annotated
from htc.data.loader import training_loader
from htc.data.semantic_maps import MapSources, with_semantic_maps
from htc.errors import ConfigError, DataError
from htc.presets import preset
from htc.training.finetune import fit_to_data

SAMPLE = next(
    (f / "shared/data/coco_panoptic_sample" for f in Path(__file__).resolve().parents if (f / "shared/data").is_dir()),
    Path("coco_panoptic_sample"),
)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """One image, 6x8, with an instance of class car in the middle."""
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    box = {"id": 1, "image_id": 5, "category_id": 7, "bbox": [2, 1, 3, 2], "segmentation": [[2, 1, 5, 1, 5, 3, 2, 3]]}
    images = [{"id": 5, "file_name": "a.png", "height": 6, "width": 8}]
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": [box], "categories": [{"id": 7, "name": "car"}]})
    )
    return read_coco(tmp_path / "instances.json", tmp_path)


def panoptic(segments: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    named = [
        {"id": 3, "category_id": 7, "iscrowd": 0},
        {"id": 70000, "category_id": 40, "iscrowd": 0},
        {"id": 5_000_000, "category_id": 7, "iscrowd": 1},
    ]
    categories = [{"id": 7, "name": "car", "isthing": 1}, {"id": 40, "name": "sky", "isthing": 0}]
    return {
        "annotations": [
            {"image_id": 5, "file_name": "p.png", "segments_info": named if segments is None else segments}
        ],
        "categories": categories,
    }


def write(
    folder: Path, content: dict[str, Any], ids: np.ndarray | None = None, instances: int | Literal["ids"] | None = None
) -> MapSources:
    """The PNG folder and JSON file: four quarters, segments 0 (void), 3, 70000 and 5000000."""
    if ids is None:
        ids = np.zeros((6, 8), np.int64)
        ids[:3, 4:], ids[3:, :4], ids[3:, 4:] = 3, 70000, 5_000_000
    (folder / "maps").mkdir(exist_ok=True)
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colors).save(folder / "maps" / "p.png")
    (folder / "panoptic.json").write_text(json.dumps(content))
    return MapSources(None, folder / "panoptic.json", folder / "maps", instances)


def map_of(data: Dataset, classes: int = 10) -> np.ndarray:
    semantic = annotated(data.images[0], classes, data.semantic_maps).semantic
    assert semantic is not None
    return semantic


def quarters() -> np.ndarray:
    expected = np.full((6, 8), 255)
    expected[:3, 4:], expected[3:, :4] = 0, 1
    return expected


def test_things_stuff_crowds_and_void(data: Dataset, tmp_path: Path) -> None:
    """Categories by their order, not their id; crowds and pixels of no segment are ignored."""
    found = with_semantic_maps(data, write(tmp_path, panoptic()))
    assert found.semantic_maps is not None
    assert found.semantic_maps.panoptic is not None
    assert found.semantic_maps.panoptic.names == {0: "car", 1: "sky"}
    assert np.array_equal(map_of(found), quarters())


def test_instances_over_panoptic_maps(data: Dataset, tmp_path: Path) -> None:
    expected = quarters()
    expected[1:3, 2:5] = 0
    assert np.array_equal(map_of(with_semantic_maps(data, write(tmp_path, panoptic(), instances=0))), expected)
    with pytest.raises(DataError, match="instances of 'car' would be drawn with the value 1, which is 'sky'"):
        with_semantic_maps(data, write(tmp_path, panoptic(), instances=1))
    with pytest.raises(DataError, match="instances of 'car' would be drawn with the value 2, but are 0"):
        with_semantic_maps(data, write(tmp_path, panoptic(), instances=2))


def test_instances_over_a_folder_of_stuff(data: Dataset, tmp_path: Path) -> None:
    """Stuff 0..2 from the folder, the one class of instances as 3; the branch gets as many classes as it needs."""
    (tmp_path / "stuff").mkdir()
    Image.fromarray(np.full((6, 8), 2, np.uint8)).save(tmp_path / "stuff" / "a.png")
    found = with_semantic_maps(data, MapSources(tmp_path / "stuff", instances=3))
    expected = np.full((6, 8), 2)
    expected[1:3, 2:5] = 3
    assert np.array_equal(map_of(found), expected)
    small = preset("htc_r18_small")
    assert small.semantic is not None
    three = small.replace(semantic={"classes": 3})
    config = fit_to_data(three, found, MapSources(tmp_path / "stuff", instances=3))
    assert config.semantic is not None
    assert config.semantic.classes == 4
    with pytest.raises(ConfigError, match=r"semantic\.classes is 3; the semantic maps need 4"):
        training_loader(found, three, 0, 0, 1)
    with pytest.raises(DataError, match=r"the value 256, but a map has 0\.\.254"):
        with_semantic_maps(data, MapSources(tmp_path / "stuff", instances=256))


def test_the_branch_gets_the_panoptic_classes(data: Dataset, tmp_path: Path) -> None:
    maps = write(tmp_path, panoptic())
    found = with_semantic_maps(data, maps)
    config = fit_to_data(preset("htc_r18_small"), found, maps)
    assert config.semantic is not None
    assert config.semantic.classes == 2
    (batch,) = training_loader(found, config, 0, 0, 1)
    assert batch.semantic is not None
    assert set(batch.semantic.unique().tolist()) == {0, 1, 255}


def faulty(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    content = panoptic()
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (faulty(lambda c: c["annotations"][0].update(image_id=6)), r"image 5 \(a\.png\) has no annotation"),
        (faulty(lambda c: c["annotations"][0].update(file_name="q.png")), r"image q\.png of image 5 is not in"),
        (faulty(lambda c: c["annotations"][0].pop("file_name")), "image 5 is damaged"),
        (faulty(lambda c: c["annotations"][0]["segments_info"][0].update(category_id=8)), "image 5 is damaged"),
        (faulty(lambda c: c["categories"][1].update(id=7)), "category 7 needs a unique integer"),
        (
            faulty(lambda c: c["categories"][1].pop("name")),
            "category 40 needs a unique integer as id, and a name",
        ),
        (
            faulty(lambda c: c.update(categories=[{"id": i, "name": str(i), "isthing": 1} for i in range(256)])),
            "256 categories do not fit",
        ),
        ({"images": [], "annotations": [{"bbox": []}], "categories": []}, "no annotation has segments_info"),
        ({"annotations": []}, "is not a panoptic annotation file"),
    ],
)
def test_faults_are_named(data: Dataset, tmp_path: Path, content: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        with_semantic_maps(data, write(tmp_path, content))


def test_files_that_cannot_be_used(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains segment 3, which its annotation does not list"):
        map_of(with_semantic_maps(data, write(tmp_path, panoptic([]))))
    maps = write(tmp_path, panoptic([]), np.zeros((6, 9), np.int64))
    with pytest.raises(DataError, match=r"p\.png is 9x6, but its image 8x6"):
        map_of(with_semantic_maps(data, maps))
    Image.new("L", (8, 6)).save(tmp_path / "maps/p.png")
    with pytest.raises(DataError, match=r"has mode L; .* for class indices, do not pass a JSON"):
        map_of(with_semantic_maps(data, maps))
    (tmp_path / "maps/p.png").write_bytes(b"x")
    with pytest.raises(DataError, match="not a readable image"):
        map_of(with_semantic_maps(data, maps))
    with pytest.raises(DataError, match="no such folder of panoptic PNGs"):
        with_semantic_maps(data, replace(maps, panoptic_folder=tmp_path / "none"))
    with pytest.raises(DataError, match=r"none\.json: no such file; give COCO's panoptic"):
        with_semantic_maps(data, replace(maps, panoptic_json=tmp_path / "none.json"))
    (tmp_path / "panoptic.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        with_semantic_maps(data, maps)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the COCO panoptic sample is not part of the repository")
def test_real_coco_equals_its_stuffthing_maps() -> None:
    """Two images of val2017: category ids of our map against the maps derived from the same PNGs by other code (id
    - 1, 255 void).
    """
    annotations = SAMPLE / "annotations"
    data = read_coco(annotations / "panoptic_as_detection.json", SAMPLE / "val2017")
    found = with_semantic_maps(
        data, MapSources(None, annotations / "panoptic_val2017.json", annotations / "panoptic_val2017")
    )
    content = json.loads((annotations / "panoptic_val2017.json").read_text())
    ids = np.array([category["id"] - 1 for category in content["categories"]] + [255] * 200)
    crowds = {a["image_id"]: [s["id"] for s in a["segments_info"] if s["iscrowd"]] for a in content["annotations"]}
    for record in found.images:
        ours = annotated(record, 133, found.semantic_maps).semantic
        assert ours is not None
        theirs = np.array(Image.open(annotations / "stuffthing_val2017" / f"{record.path.stem}.png"))
        same = ids[ours] == theirs
        colors = np.array(Image.open(annotations / "panoptic_val2017" / f"{record.path.stem}.png")).astype(int)
        crowd = np.isin(colors @ [1, 256, 65536], crowds[record.id])
        assert same[~crowd].all()
        assert (ours[crowd] == 255).all()
        assert (ours != 255).mean() > 0.5
