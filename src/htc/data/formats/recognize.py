"""Recognition of the format of a dataset's folder: one table for training, evaluation, the doctor and conversion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from htc.data.coco import LAYOUTS
from htc.data.formats.converted import Converted
from htc.data.formats.label_maps import read_label_maps
from htc.data.formats.labelme import is_labelme, read_labelme
from htc.data.formats.map_folders import map_parts
from htc.data.formats.map_rules import DECIDED, MapOptions
from htc.data.formats.yolo import read_yolo
from htc.data.formats.yolo_files import description


@dataclass(frozen=True)
class Format:
    """A format other than COCO."""

    layout: str
    """The files it is recognized by, for messages."""
    matches: Callable[[Path], bool]
    read: Callable[[Path, MapOptions], Converted]


FORMATS = (
    Format(
        "data.yaml (or data.yml) with images/ and labels/*.txt: YOLO",
        lambda folder: description(folder) is not None,
        lambda folder, _: read_yolo(folder),
    ),
    Format(
        "images/ and masks/ (or labels/) with a PNG for each image: label maps; with train/ and val/ above or below",
        lambda folder: bool(map_parts(folder)),
        read_label_maps,
    ),
    Format(
        "JSON files of labelme next to the images; in train/ and val/ if there are several parts",
        is_labelme,
        lambda folder, _: read_labelme(folder),
    ),
)
"""In the order in which they are tried."""


def is_coco(folder: Path) -> bool:
    """Test whether a folder has one of `LAYOUTS`."""
    return any((folder / train).is_file() for train, _, _, _ in LAYOUTS)


def is_known(folder: Path) -> bool:
    """Test whether a folder contains a dataset in any supported layout."""
    return is_coco(folder) or any(one.matches(folder) for one in FORMATS)


def read_other(folder: Path, maps: MapOptions = DECIDED) -> Converted | None:
    """Read a dataset that is not in COCO format; None if its layout is unknown. Raises `DataError` for its faults."""
    if not folder.is_dir():
        return None
    found = next((one for one in FORMATS if one.matches(folder)), None)
    return None if found is None else found.read(folder, maps)


def unknown_layout(folder: Path) -> str:
    """Error message that lists the supported layouts."""
    coco = (f"{train} with {images}/: COCO" for train, images, _, _ in LAYOUTS)
    known = "".join(f"\n  {line}" for line in (*coco, *(one.layout for one in FORMATS)))
    return (
        f"{folder} has none of the known layouts:{known}\narrange it like one of them, or pass the paths: "
        f"--train-annotations, --train-images"
    )
