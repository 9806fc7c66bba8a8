"""Semantic targets merged from a folder of class numbers, panoptic annotations and instances: pixel by pixel against
the rule.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from htc.data.coco import read_coco
from htc.data.dataset import Dataset, ImageRecord
from htc.data.ground_truth import annotated
from htc.data.loader import training_loader
from htc.data.semantic_maps import MapSources, least_classes, read_semantic, semantic_class_names, with_semantic_maps
from htc.errors import ConfigError, DataError
from htc.presets import preset
from htc.training.finetune import fit_to_data

SAMPLE = next(
    (f / "shared/data/coco_panoptic_sample" for f in Path(__file__).resolve().parents if (f / "shared/data").is_dir()),
    Path("coco_panoptic_sample"),
)
HEIGHT, WIDTH = 12, 16
SKY, CAR, TREE, ROAD = 40, 7, 9, 200
"""Category ids; in the file's order the panoptic classes would be 0..2. Roads are in the folder alone."""


def write_data(folder: Path) -> Dataset:
    """Images 1..3; car and tree instances (ids 7 and 9) in all of them, the last one a crowd."""
    (folder / "pictures").mkdir()
    images = []
    for id in (1, 2, 3):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "pictures" / f"{id}.jpg")
        images.append({"id": id, "file_name": f"{id}.jpg", "height": HEIGHT, "width": WIDTH})
    boxes = [(CAR, 1, 1, 4, 3, 0), (TREE, 3, 2, 9, 8, 0), (CAR, 10, 8, 4, 3, 1)]
    annotations = [
        {"id": 10 * id + row, "image_id": id, "category_id": category, "iscrowd": crowd, "bbox": [x, y, w, h]}
        | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": run_lengths(x, y, w, h)}}
        for id in (1, 2, 3)
        for row, (category, x, y, w, h, crowd) in enumerate(boxes)
    ]
    categories = [{"id": CAR, "name": "car"}, {"id": TREE, "name": "tree"}]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return read_coco(folder / "instances.json", folder / "pictures")


def run_lengths(x: int, y: int, w: int, h: int) -> list[int]:
    dense = np.zeros((HEIGHT, WIDTH), bool)
    dense[y : y + h, x : x + w] = True
    flat = dense.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0, *edges, flat.size]).tolist()


def stuff_of(id: int) -> np.ndarray:
    """The folder's map: columns of road, car, unlabelled and sky, as category id - 1."""
    return np.roll(np.repeat([[ROAD - 1, CAR - 1, 255, SKY - 1]], HEIGHT, 0).repeat(WIDTH // 4, 1), id, axis=1).astype(
        np.uint8
    )


SEGMENTS = {3: (SKY, 0), 70000: (CAR, 1), 900: (CAR, 0), 65536: (TREE, 0)}
"""Category and `iscrowd` by segment id: the second is a crowd."""


def segments_of(id: int) -> np.ndarray:
    """The panoptic segment of each pixel, rows; 0 is void."""
    return np.roll(np.array([0, 3, 70000, 900, 65536, 0]).repeat(HEIGHT // 6)[:, None].repeat(WIDTH, 1), id, axis=0)


def write_maps(
    folder: Path,
    stuff: tuple[int, ...] = (1, 2, 3),
    panoptic: tuple[int, ...] = (1, 2, 3),
    instances: int | Literal["ids"] | None = None,
) -> MapSources:
    """The folder's maps and the panoptic ones of these images."""
    (folder / "stuff").mkdir(exist_ok=True)
    (folder / "png").mkdir(exist_ok=True)
    entries = []
    for id in stuff:
        Image.fromarray(stuff_of(id)).save(folder / "stuff" / f"{id}.png")
    for id in panoptic:
        ids = segments_of(id)
        Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(
            folder / "png" / f"p{id}.png"
        )
        infos = [
            {"id": segment, "category_id": category, "iscrowd": crowd}
            for segment, (category, crowd) in SEGMENTS.items()
        ]
        entries.append({"image_id": id, "file_name": f"p{id}.png", "segments_info": infos})
    categories = [
        {"id": SKY, "name": "sky", "isthing": 0},
        {"id": CAR, "name": "car", "isthing": 1},
        {"id": TREE, "name": "tree", "isthing": 1},
    ]
    (folder / "panoptic.json").write_text(json.dumps({"annotations": entries, "categories": categories}))
    return MapSources(folder / "stuff", folder / "panoptic.json", folder / "png", instances)


def map_of(data: Dataset, id: int) -> np.ndarray:
    semantic = annotated(data.images[id - 1], 256, data.semantic_maps).semantic
    assert semantic is not None
    assert semantic.dtype == np.uint8
    return semantic


def by_the_rule(
    id: int, *, stuff: bool = True, panoptic: bool = True, instances: dict[int, int] | None = None
) -> np.ndarray:
    """One pixel after the other: the smallest instance's value, else the panoptic class, else the folder's, else
    255.
    """
    expected = np.full((HEIGHT, WIDTH), 255)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            segment = int(segments_of(id)[y, x])
            category, crowd = SEGMENTS.get(segment, (0, 1))
            if instances and 1 <= x < 5 and 1 <= y < 4:
                expected[y, x] = instances[CAR]
            elif instances and 3 <= x < 12 and 2 <= y < 10:
                expected[y, x] = instances[TREE]
            elif panoptic and not crowd:
                expected[y, x] = category - 1
            elif stuff:
                expected[y, x] = stuff_of(id)[y, x]
    return expected


@pytest.mark.parametrize(
    ("instances", "values"),
    [(None, None), ("ids", {CAR: CAR - 1, TREE: TREE - 1})],
    ids=["folder and panoptic", "and instances by their ids"],
)
def test_all_three_by_the_rule(tmp_path: Path, instances: Literal["ids"] | None, values: dict[int, int] | None) -> None:
    """Void pixels and crowds of the panoptic maps show the folder's class; both number classes by category id - 1."""
    found = with_semantic_maps(write_data(tmp_path), write_maps(tmp_path, instances=instances))
    for id in (1, 2, 3):
        expected = by_the_rule(id, instances=values)
        assert np.array_equal(map_of(found, id), expected)
        assert {CAR - 1, SKY - 1, TREE - 1, ROAD - 1, 255} == set(np.unique(expected))
    assert semantic_class_names(found) == {SKY - 1: "sky", CAR - 1: "car", TREE - 1: "tree"}
    assert least_classes(found) == SKY


def test_either_may_lack_a_image_that_the_other_has(tmp_path: Path) -> None:
    found = with_semantic_maps(
        write_data(tmp_path), write_maps(tmp_path, stuff=(1, 2), panoptic=(2, 3), instances="ids")
    )
    values = {CAR: CAR - 1, TREE: TREE - 1}
    assert np.array_equal(map_of(found, 1), by_the_rule(1, panoptic=False, instances=values))
    assert np.array_equal(map_of(found, 2), by_the_rule(2, instances=values))
    assert np.array_equal(map_of(found, 3), by_the_rule(3, stuff=False, instances=values))


@pytest.mark.parametrize(
    ("stuff", "panoptic", "says"),
    [
        ((1,), (2,), r"panoptic\.json: image 3 \(3\.jpg\) has no annotation"),
        ((), (1, 2, 3), r"stuff has no semantic map for any of the 3 images"),
        ((1, 2, 3), (8,), r"panoptic\.json has no annotation for any of the 3 images"),
    ],
    ids=["in neither", "none in the folder", "none in the annotations"],
)
def test_what_is_missing_is_named(tmp_path: Path, stuff: tuple[int, ...], panoptic: tuple[int, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        with_semantic_maps(write_data(tmp_path), write_maps(tmp_path, stuff, panoptic))


def test_a_png_that_the_annotations_promise_must_be_there(tmp_path: Path) -> None:
    data, maps = write_data(tmp_path), write_maps(tmp_path)
    found = with_semantic_maps(data, maps)
    (tmp_path / "png" / "p2.png").unlink()
    with pytest.raises(DataError, match=r"p2\.png of image 2 is not in"):
        with_semantic_maps(data, maps)
    (tmp_path / "stuff" / "1.png").unlink()
    with pytest.raises(DataError, match="no such semantic map"):
        map_of(found, 1)


def test_instances_by_their_ids_alone(tmp_path: Path) -> None:
    """`ids` numbers panoptic classes by id where there is no folder, too."""
    data, maps = write_data(tmp_path), write_maps(tmp_path)
    values = {CAR: CAR - 1, TREE: TREE - 1}
    found = with_semantic_maps(data, MapSources(None, maps.panoptic_json, maps.panoptic_folder, "ids"))
    assert np.array_equal(map_of(found, 2), by_the_rule(2, stuff=False, instances=values))
    found = with_semantic_maps(data, MapSources(maps.folder, instances="ids"))
    assert np.array_equal(map_of(found, 2), by_the_rule(2, panoptic=False, instances=values))
    with pytest.raises(
        DataError, match="instances of 'car' would be drawn with the value 0, but are 6 in the panoptic annotations"
    ):
        with_semantic_maps(data, write_maps(tmp_path, instances=0))


def test_ids_that_no_map_can_hold(tmp_path: Path) -> None:
    data, maps = write_data(tmp_path), write_maps(tmp_path)
    file = tmp_path / "panoptic.json"
    for wrong in (0, 256):
        file.write_text(
            file.read_text()
            .replace('"id": 40, "name"', f'"id": {wrong}, "name"')
            .replace('"category_id": 40', f'"category_id": {wrong}')
        )
        with pytest.raises(
            DataError,
            match=rf"category 'sky' has the id {wrong}; classes are category ids - 1 here, so ids must be in 1\.\.255",
        ):
            with_semantic_maps(data, maps)
        write_maps(tmp_path)


def test_the_order_of_the_classes_is_the_models(tmp_path: Path) -> None:
    """Measuring, instances are numbered as the model's classes; those it does not know are ignored."""
    data = write_data(tmp_path)
    maps = MapSources(write_maps(tmp_path).folder, instances=100)
    assert np.array_equal(
        map_of(with_semantic_maps(data, maps), 1), by_the_rule(1, panoptic=False, instances={CAR: 100, TREE: 101})
    )
    found = with_semantic_maps(data, maps, ("bird", "tree"))
    assert np.array_equal(map_of(found, 1), by_the_rule(1, panoptic=False, instances={CAR: 255, TREE: 101}))
    assert least_classes(found) == 102


def test_the_branch_has_room_for_the_highest_id(tmp_path: Path) -> None:
    """The folder's own classes are the configuration's to know; ids of the others are seen to."""
    maps = write_maps(tmp_path)
    found = with_semantic_maps(write_data(tmp_path), maps)
    small = preset("htc_r18_small")
    config = fit_to_data(small, found, maps)
    assert config.semantic is not None
    assert config.semantic.classes == SKY
    with pytest.raises(ConfigError, match=f"the semantic maps need {SKY}"):
        training_loader(found, small, 0, 0, 1)
    with pytest.raises(
        DataError, match=r"contains the value 199, but the model has classes 0\.\.39 .*set semantic\.classes"
    ):
        list(training_loader(found, config, 0, 0, 1))


def test_another_part_has_its_own_files(tmp_path: Path) -> None:
    for name in ("panoptic_val2017.json", "png/train2017/x", "png/val2017/x", "maps_val2017/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = MapSources(
        tmp_path / "png/train2017", tmp_path / "panoptic_train2017.json", tmp_path / "maps_train2017", "ids"
    ).of_part("val2017")
    assert found == MapSources(
        tmp_path / "png/val2017", tmp_path / "panoptic_val2017.json", tmp_path / "maps_val2017", "ids"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [((), "need a folder"), ((None, Path("a.json")), "pass both"), ((Path("a"), None, Path("b")), "pass both")],
)
def test_sources_that_cannot_be(given: tuple[Path | None, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MapSources(*given)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the COCO panoptic sample is not part of the repository")
def test_real_coco_in_both_forms_is_one_map() -> None:
    """Panoptic PNGs over the maps that other code made of them (id - 1, crowds labelled): the folder fills crowds,
    and nothing else changes.
    """
    annotations = SAMPLE / "annotations"
    data = read_coco(annotations / "panoptic_as_detection.json", SAMPLE / "val2017")
    folder = annotations / "stuffthing_val2017"
    found = with_semantic_maps(
        data, MapSources(folder, annotations / "panoptic_val2017.json", annotations / "panoptic_val2017")
    )
    for row, record in enumerate(found.images, start=1):
        assert np.array_equal(map_of(found, row), np.array(Image.open(folder / f"{record.path.stem}.png")))


@pytest.mark.parametrize(
    ("panoptic", "expected"),
    [
        ((None, None), (Path("maps"), None, None)),
        ((Path("p.json"), None), (None, Path("p.json"), Path("maps"))),
        ((Path("p.json"), Path("png")), (Path("maps"), Path("p.json"), Path("png"))),
    ],
)
def test_a_folder_holds_class_numbers_or_panoptic_pngs(
    panoptic: tuple[Path | None, Path | None], expected: tuple[Path | None, ...]
) -> None:
    sources = MapSources.from_folder(Path("maps"), *panoptic, instances="ids")
    assert (sources.folder, sources.panoptic_json, sources.panoptic_folder, sources.instances) == (*expected, "ids")


def test_panoptic_pngs_need_their_json() -> None:
    with pytest.raises(ConfigError, match="--semantic-json FILE, which is missing"):
        MapSources.from_folder(Path("maps"), panoptic_folder=Path("png"))


def test_images_of_one_name_in_two_folders_have_their_own_maps(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    images = [tmp_path / "images" / f"cam{number}" / "x.jpg" for number in (0, 1)]
    for number in (0, 1):
        (maps / f"cam{number}").mkdir(parents=True)
        Image.fromarray(np.full((8, 9), number, np.uint8)).save(maps / f"cam{number}" / "x.png")
    records = tuple(ImageRecord(number, path, 8, 9, ()) for number, path in enumerate(images))
    dataset = with_semantic_maps(Dataset(tmp_path, ("a",), (1,), records), MapSources(maps))
    assert dataset.semantic_maps is not None
    read = [read_semantic(record, dataset.semantic_maps, 2).max() for record in dataset]
    assert read == [0, 1]
    for number in (0, 1):
        (maps / f"cam{number}" / "x.png").rename(maps / "x.png")
    with pytest.raises(DataError, match=r"x\.png would be the semantic map of two images"):
        with_semantic_maps(Dataset(tmp_path, ("a",), (1,), records), MapSources(maps))
