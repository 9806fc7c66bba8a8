"""The folder that holds a whole data set: which parts are there, which are missing, and where they go."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from htc.data.coco import Splits, find_splits
from htc.data.formats.layouts import is_coco, is_known
from htc.doctor.finding import Finding
from htc.errors import DataError

IMAGES = "https://images.cocodataset.org/zips"
ANNOTATIONS = "https://images.cocodataset.org/annotations/annotations_trainval2017.zip"
STUFF = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip"
TRAIN, TRAIN_IMAGES = "annotations/instances_train2017.json", "train2017"
COCO = {
    TRAIN: f"unpack {ANNOTATIONS} here",
    "annotations/instances_val2017.json": f"unpack {ANNOTATIONS} here",
    TRAIN_IMAGES: f"118,287 pictures; unpack {IMAGES}/train2017.zip here",
    "val2017": f"5,000 pictures; unpack {IMAGES}/val2017.zip here",
}
"""What COCO's layout must hold, and where it comes from."""
MAPS = {
    "stuffthingmaps/train2017": f"unpack {STUFF} into stuffthingmaps",
    "stuffthingmaps/val2017": f"unpack {STUFF} into stuffthingmaps",
}


@dataclass(frozen=True)
class Root:
    """The parts of a data set that can be examined, and what is missing beside them."""

    splits: Splits
    maps: Path | None
    """Semantic maps of the training pictures."""
    findings: tuple[Finding, ...]


def examine_root(root: Path) -> Root:
    """The parts of `root`. Raises `DataError` for a folder of no known layout, one that must be converted first, or
    COCO's without training part; then it lists what is missing and where that goes.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder; give the COCO instance file, or the folder of the data set")
    missing = [place for place in COCO if not (root / place).exists()]
    looks_like_coco = len(missing) < len(COCO)
    if not is_coco(root) and not looks_like_coco and is_known(root):
        raise DataError(
            f"{root} is not COCO data; convert it first: htc convert {root} DST; then: htc doctor "
            f"DST/annotations/instances_train.json {root}"
        )
    findings = tuple(_missing_parts(root, missing)) if looks_like_coco else ()
    if looks_like_coco and set(missing) & {TRAIN, TRAIN_IMAGES}:
        raise DataError(
            f"{root} lacks parts of COCO's layout:" + "".join(f"\n  {finding.what}" for finding in findings)
        )
    splits = Splits(root / TRAIN, root / TRAIN_IMAGES, None, None) if looks_like_coco and missing else find_splits(root)
    maps = root / "stuffthingmaps" / splits.train_images.name
    return Root(splits, maps if maps.is_dir() else None, findings)


def _missing_parts(root: Path, missing: list[str]) -> Iterator[Finding]:
    """Annotations and pictures are needed, COCO-Stuff's maps are not."""
    for place in missing:
        yield Finding("layout-missing", f"{place} is not there: {COCO[place]}", root)
    absent = [place for place in MAPS if not (root / place).is_dir()]
    if absent:
        what = (
            f"{' and '.join(absent)}: without COCO-Stuff's maps semantic targets are derived from the "
            f"instances; to "
            f"have them, {MAPS[absent[0]]}"
        )
        yield Finding("layout-optional", what, root)
