"""COCO annotation files in the folders that annotation tools export, beyond `LAYOUTS`.

CVAT and Datumaro: `annotations/instances_<part>.json` with `images/` or `images/<part>/`; Label Studio: `result.json`
with `images/`; Roboflow without a training part; LVIS: `lvis_v1_<part>.json` with COCO's image folders. A file is
recognized by its lists and its part by the words of its name; the images are in the folder that has most of the listed
names.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from htc.data.coco import Splits, coco_parts, find_splits
from htc.data.coco_records import name_of_url
from htc.data.formats.converted import SPLIT_NAMES
from htc.errors import DataError
from htc.files import is_file, visible_entries

LISTS = (b'"images"', b'"annotations"', b'"categories"')
OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
"""Beginnings of the names of COCO's files for other tasks."""
OTHERS = (b'"segments_info"', b'"_via_', b'"shapes"')
"""Text of files of other formats."""
IMAGE_FOLDERS = ("images", "data", "imgs", "JPEGImages")
SAMPLE = 50
"""Number of listed images whose files are looked for."""


class _Image(msgspec.Struct):
    file_name: str | None = None
    coco_url: str | None = None


class _Content(msgspec.Struct):
    images: list[_Image] = []


def has_annotation_files(folder: Path) -> bool:
    """Test whether a folder contains COCO annotation files in any place where tools write them."""
    return next(_annotation_files(folder), None) is not None


def splits_of(folder: Path) -> Splits:
    """Find the training and validation parts; raises `DataError` if there is no training part."""
    if not any(images.is_dir() for _, images in coco_parts(folder).values()):
        parts = export_parts(folder)
        if "train" in parts:
            return Splits(*parts["train"], *parts.get("val", (None, None)))
    return find_splits(folder)


def parts_of(folder: Path) -> dict[str, tuple[Path, Path]]:
    """(annotations, images) of each part `train`, `val` and `test`."""
    parts = coco_parts(folder)
    return parts if any(images.is_dir() for _, images in parts.values()) else export_parts(folder) or parts


def export_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """(annotations, images) of each part of an export; empty if there are no annotation files. Raises `DataError` if
    several files may be the same part.
    """
    of: dict[str, list[Path]] = {}
    for file in _annotation_files(folder):
        of.setdefault(_part(file, folder), []).append(file)
    if not of:
        return {}
    several = next((files for files in of.values() if len(files) > 1), None)
    if several is not None:
        names = " and ".join(str(file.relative_to(folder)) for file in several)
        raise DataError(
            f"{folder} has several annotation files for one part: {names}; keep one, or pass the paths: "
            f"--train-annotations, --train-images"
        )
    if set(of) == {""}:
        of = {"train": of[""]}
    parts = {part or "train": (files[0], _images_folder(files[0], folder, part)) for part, files in of.items()}
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _annotation_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    places = [folder, folder / "annotations", *(folder / name for name in SPLIT_NAMES)]
    for place in places:
        for file in visible_entries(place) if place.is_dir() else ():
            named = file.suffix.lower() == ".json" and not file.name.startswith(OTHER_TASKS)
            if named and file.is_file() and _is_annotation_file(file):
                yield file


def _is_annotation_file(file: Path) -> bool:
    """Test whether a file has COCO's lists, without decoding it: it may have 450 MB."""
    with file.open("rb") as stream:
        if stream.read(1) not in (b"{", b" ", b"\n", b"\r", b"\t", b"\xef") or file.stat().st_size < 2:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if any(content.find(text, 0, 1 << 20) >= 0 for text in OTHERS):
                return False
            return all(content.find(text) >= 0 for text in LISTS)


def _part(file: Path, folder: Path) -> str:
    """The part that a file or its folder is named after; empty if it is none."""
    words = [word.rstrip("0123456789") for word in re.split(r"[_\-. ]+", file.stem.lower())]
    if file.parent not in (folder, folder / "annotations"):
        words.append(file.parent.name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _images_folder(file: Path, folder: Path, part: str) -> Path:
    """The folder that has most of the listed images."""
    names = _listed_names(file)
    last = re.split(r"[_]+", file.stem)[-1]
    own = [name for name in (last, part, *(key for key, value in SPLIT_NAMES.items() if value == part)) if name]
    below = [base / name for base in (*(folder / one for one in IMAGE_FOLDERS), folder) for name in own]
    folders = [file.parent, *below, *(folder / name for name in IMAGE_FOLDERS), folder]
    folders = [path for path in dict.fromkeys(folders) if path.is_dir()]
    counts = [sum(is_file(path / name) for name in names) for path in folders]
    if not any(counts):
        # The names may have other folders in front, which the reader of the file removes.
        counts = [sum(is_file(path / PurePosixPath(name).name) for name in names) for path in folders]
    if any(counts):
        return folders[counts.index(max(counts))]
    return next((path for path in below if path.is_dir()), folders[0])


def _listed_names(file: Path) -> list[str]:
    """Some of the listed file names, without `..`; none if they cannot be read, which the file's reader reports."""
    try:
        images = msgspec.json.decode(file.read_bytes(), type=_Content).images
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []
    names = [(one.file_name or name_of_url(one.coco_url) or "").replace("\\", "/") for one in images]
    names = [name for name in names if name and ".." not in name.split("/")]
    return names[:: max(1, len(names) // SAMPLE)][:SAMPLE]
