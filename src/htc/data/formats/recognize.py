"""Recognition of the format of a dataset's folder: one table for training, evaluation, the doctor and conversion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from htc.data.coco import LAYOUTS, coco_parts
from htc.data.formats.coco_exports import has_annotation_files
from htc.data.formats.converted import Converted
from htc.data.formats.label_maps import read_label_maps
from htc.data.formats.labelme import is_labelme, read_labelme
from htc.data.formats.map_folders import map_parts
from htc.data.formats.map_rules import DECIDED, MapOptions
from htc.data.formats.segment_maps import is_cityscapes, panoptic_files, read_cityscapes, read_panoptic_instances
from htc.data.formats.via import is_via, read_via
from htc.data.formats.voc import is_voc, read_voc
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
        "leftImg8bit/train/ and gtFine/train/: Cityscapes",
        is_cityscapes,
        lambda folder, _: read_cityscapes(folder),
    ),
    Format(
        "annotations/panoptic_train2017.json with its PNGs beside it, images in train2017/ or images/: COCO panoptic",
        lambda folder: bool(panoptic_files(folder)),
        lambda folder, _: read_panoptic_instances(folder),
    ),
    Format(
        "JPEGImages/ with SegmentationObject/ or Annotations/*.xml, or XML files beside the images: Pascal VOC",
        is_voc,
        lambda folder, _: read_voc(folder),
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
    Format(
        "JSON or CSV files of VIA (VGG Image Annotator) beside the images; in train/ and val/ if there are parts",
        is_via,
        lambda folder, _: read_via(folder),
    ),
)
"""In the order in which they are tried."""


def is_coco(folder: Path) -> bool:
    """Test whether a folder contains COCO annotation files, in one of `LAYOUTS` or as tools export them."""
    if coco_parts(folder):
        return True
    return has_annotation_files(folder) and not any(one.matches(folder) for one in FORMATS)


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
    exports = "COCO annotation files in annotations/, with images/: CVAT, Label Studio, LVIS"
    known = "".join(f"\n  {line}" for line in (*coco, exports, *(one.layout for one in FORMATS)))
    return (
        f"{folder} has none of the known layouts:{known}\narrange it like one of them, or pass the paths: "
        f"--train-annotations, --train-images"
    )
