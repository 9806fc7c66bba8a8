"""What a training is told of its data before the first step."""

import pytest
from PIL import Image

from checks.data_sets import DataSet, clean
from checks.faults import FIXED, KEPT
from htc.checks.before_training import check_data
from htc.config import Config
from htc.data.coco import Splits
from htc.data.semantic_maps import MapSources
from htc.errors import DataError
from training.tiny import tiny

FAULTS = {**dict(KEPT), **dict(FIXED)}


def checked(data: DataSet, config: Config | None = None, *, val: bool = True, maps: bool = False) -> tuple[str, ...]:
    parts = (data.val_annotations, data.val_images) if val else (None, None)
    return check_data(
        config or tiny(), Splits(data.annotations, data.images, *parts), MapSources(data.maps) if maps else None
    )


def faulty(tmp_path, *codes: str) -> DataSet:
    data = clean(tmp_path / "data")
    for code in codes:
        FAULTS[code](data)
    return data.write()


@pytest.mark.parametrize("val", [True, False])
@pytest.mark.parametrize("maps", [True, False])
def test_clean_data_are_quiet(val, maps, tmp_path):
    assert checked(faulty(tmp_path), val=val, maps=maps) == ()


@pytest.mark.parametrize(
    "code",
    ["picture-size", "picture-turned", "polygon-normalised", "categories-differ", "semantic-size", "semantic-mode"],
)
def test_errors_stop_with_the_fault_and_its_remedy(code, tmp_path):
    data = faulty(tmp_path, code)
    with pytest.raises(DataError, match=code) as caught:
        checked(data, maps=code.startswith("semantic"))
    assert f"htc doctor {data.annotations} {data.images} --val-annotations" in str(caught.value)
    assert "the dataset has 1 error:" in str(caught.value)


def test_images_with_panoptic_maps_need_no_other(tmp_path):
    data = faulty(tmp_path, "semantic-missing")
    splits = Splits(data.annotations, data.images, None, None)
    with pytest.raises(DataError, match="semantic-missing"):
        check_data(tiny(), splits, MapSources(data.maps))
    assert check_data(tiny(), splits, MapSources(data.maps, tmp_path / "panoptic.json", tmp_path / "panoptic")) == ()


def test_many_errors_are_not_all_listed(tmp_path):
    data = faulty(tmp_path)
    for one in data.objects:
        one["category_id"] = 77
    with pytest.raises(DataError, match=r"(?s)7 errors.*and 2 more") as caught:
        check_data(tiny(), Splits(data.write().annotations, data.images, None, None))
    assert str(caught.value).count("category-unknown") == 5


def test_warnings_are_one_line_a_kind(tmp_path):
    data = faulty(tmp_path, "object-twice", "picture-leaked", "box-unlike-mask")
    data.objects.append({**data.objects[1], "id": 61})
    warnings = checked(data.write())
    assert len(warnings) == 3
    assert all(line.startswith("warning: ") and "\n" not in line for line in warnings)
    # The faulty object was annotated twice, with its fault.
    assert sum("(2 times)" in line for line in warnings) == 2


def test_notes_are_left_to_the_doctor(tmp_path):
    assert checked(faulty(tmp_path, "picture-empty", "picture-unlisted")) == ()


@pytest.mark.parametrize(("allowed", "told"), [(20, True), (200, False)])
def test_detections_are_the_configurations(allowed, told, tmp_path):
    config = tiny()
    config = config.replace(inference={"max_detections": allowed})
    warnings = checked(faulty(tmp_path, "picture-crowded"), config)
    assert [f"the maximum number of detections is {allowed}" in line for line in warnings] == [True] * told


def test_no_pixel_is_read(tmp_path, monkeypatch):
    data = faulty(tmp_path)
    monkeypatch.setattr(Image.Image, "load", None)
    assert checked(data, maps=True) == ()
