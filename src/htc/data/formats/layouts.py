"""Any known dataset as COCO files: a folder whose layout is recognized, or datasets built in Python.

What is not COCO is converted into a folder of ours; images stay where they are.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from htc.data.annotation_file import annotation_file
from htc.data.coco import LAYOUTS, Splits, coco_parts, dataset_of, find_splits, read_coco
from htc.data.dataset import Dataset
from htc.data.formats.converted import ANNOTATIONS_FOLDER, Converted, coco_content, write_parts
from htc.data.formats.label_maps import map_parts, read_label_maps
from htc.data.formats.labelme import is_labelme, read_labelme
from htc.data.formats.yolo import description, read_yolo
from htc.data.written import by_split, digest, save_split, split_name
from htc.errors import DataError
from htc.files import write_json

OTHERS = (
    "data.yaml (or data.yml) with images/ and labels/*.txt: YOLO",
    "images/ and masks/ (or labels/) with a PNG for each image: label maps; with train/ and val/ above or below",
    "JSON files of labelme beside the images; in train/ and val/ where there are parts",
)
Say = Callable[[str], object]
Data = Path | Dataset | Mapping[str, Dataset]
"""A folder, one dataset (all of it for training), or datasets by split: `{"train": ..., "val": ...}`."""


@dataclass(frozen=True)
class ConvertedFiles:
    """A converted data set: its content and the COCO file of each part."""

    data: Converted
    files: dict[str, Path]

    @property
    def splits(self) -> Splits:
        """Where training finds it."""
        val = self.files.get("val")
        return Splits(self.files["train"], self.data.images, val, None if val is None else self.data.images)

    @property
    def training_flags(self) -> str:
        """The flags with which `htc train` takes the converted files."""
        return " ".join(
            f"--{part}-annotations {self.files[part]} --{part}-images {self.data.images}"
            for part in ("train", "val")
            if part in self.files
        )

    def to_json(self) -> dict[str, Any]:
        """As in the JSON of `htc convert`."""
        return {
            "images": str(self.data.images),
            "annotations": {part: str(file) for part, file in self.files.items()},
            "classes": list(self.data.classes),
            "notes": list(self.data.notes),
        }


def is_coco(folder: Path) -> bool:
    """Whether a folder has one of `LAYOUTS`."""
    return any((folder / train).is_file() for train, _, _, _ in LAYOUTS)


def is_known(folder: Path) -> bool:
    """Whether a folder holds a data set of any known layout."""
    return is_coco(folder) or description(folder) is not None or bool(map_parts(folder)) or is_labelme(folder)


def read_other(folder: Path) -> Converted | None:
    """A data set that is not COCO's, read; None if it is none that is known. Raises `DataError` for its faults."""
    if not folder.is_dir():
        return None
    if description(folder) is not None:
        return read_yolo(folder)
    if map_parts(folder):
        return read_label_maps(folder)
    return read_labelme(folder) if is_labelme(folder) else None


def convert_data(folder: Path, destination: Path) -> ConvertedFiles:
    """Reads any data set but COCO's and writes `destination/annotations/instances_<part>.json`.

    Raises `DataError` for faults (file, line or shape, remedy) and for unknown layouts, `OutputError` if it cannot
    write.
    """
    if is_coco(folder):
        raise DataError(f"{folder} is COCO data already: nothing to convert; train on it: htc train --data {folder}")
    data = read_other(folder)
    if data is None:
        raise DataError(unknown_layout(folder))
    return ConvertedFiles(data, write_parts(data, destination))


def prepare_splits(data: Data, destination: Path, val_share: float | None = None, say: Say | None = None) -> Splits:
    """The splits of any known data; what is not COCO on the disk is written into `destination`, and `say` is called
    with lines that state how it was read.

    Without validation split there is none, unless `val_share` (0..1) of the training images are to be set apart for
    it: that is never done silently. Raises `DataError` and `OutputError`.
    """
    say = say or _keep_quiet
    if not isinstance(data, Path):
        splits = _written_splits(data, destination, say)
    elif is_coco(data) or not data.is_dir():
        splits = find_splits(data)
    else:
        converted = convert_data(data, destination)
        for line in conversion_summary(converted):
            say(line)
        splits = converted.splits
    if val_share is not None:
        if splits.val_annotations is not None:
            name = data if isinstance(data, Path) else "data"
            raise DataError(
                f"{name} has a validation part ({splits.val_annotations}), so --val-share has nothing to do: "
                f"leave it out"
            )
        splits = split_off(splits, val_share, destination)
        say(
            f"{val_share:.0%} of the images, chosen by their names, are set apart for validation: "
            f"{splits.val_annotations}"
        )
    elif splits.val_annotations is None:
        say("there is no validation part, so nothing is measured; --val-share 0.2 sets a fifth of the images apart")
    return splits


def locate_splits(
    *,
    data: str | Data | None = None,
    train_annotations: Path | None = None,
    train_images: Path | None = None,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
    val_share: float | None = None,
    converted: Path | None = None,
    say: Say | None = None,
) -> Splits:
    """The annotation files and image folders of the training and validation splits, from `data` or from four paths.

    `data` is the folder of a dataset, a `Dataset` (all of it for training, unless `val_share` splits it), or datasets
    by split, `{"train": ..., "val": ...}`. What is not COCO on the disk is written into the folder `converted` (None:
    one below `runs/data`); `say` is called with a line for each thing done. Raises `DataError` that names what is
    missing, and `OutputError`.
    """
    if data is not None:
        if any(path is not None for path in (train_annotations, train_images, val_annotations, val_images)):
            raise DataError("give either --data DIR or --train-annotations with --train-images, not both")
        data = _checked(data)
        return prepare_splits(data, converted or _default_folder(data), val_share, say)
    if val_share is not None:
        raise DataError(
            "--val-share divides the images of --data DIR; give that, or --val-annotations with --val-images"
        )
    if train_annotations is None or train_images is None:
        raise DataError("nothing to train on: give --data DIR, or --train-annotations JSON with --train-images DIR")
    if (val_annotations is None) != (val_images is None):
        raise DataError("--val-annotations and --val-images go together: give both or neither")
    for annotations, images in ((train_annotations, train_images), (val_annotations, val_images)):
        if annotations is not None and (annotations.is_dir() or not annotations.exists()):
            raise DataError(f"{annotations}: no such file; give COCO annotations, an instance file (.json)")
        if images is not None and not images.is_dir():
            raise DataError(f"{images}: no such folder; give the folder of the images that {annotations} lists")
    return Splits(train_annotations, train_images, val_annotations, val_images)


def locate_split(
    data: str | Data, split: str, converted: Path | None = None, say: Say | None = None
) -> tuple[Path, Path]:
    """The annotation file and the image folder of one split of `data`, for an evaluation.

    `split` is `train`, `val` (also `valid`, `validation`) or `test`; a single `Dataset` is all of it, whatever the
    name. `data`, `converted` and `say` as in `locate_splits`. Raises `DataError` that lists the splits there are, and
    `OutputError`.
    """
    data, name, say = _checked(data), split_name(split), say or _keep_quiet
    folder = converted or _default_folder(data)
    if isinstance(data, Path):
        return _folder_split(data, name, folder, say)
    datasets = {name: data} if isinstance(data, Dataset) else by_split(data)
    if name not in datasets:
        raise DataError(_no_split("data", name, datasets))
    return _written(datasets[name], name, folder, say)


def read_split(folder: Path, split: str) -> Dataset:
    """One split of a folder in any known layout; nothing is written. Raises `DataError`."""
    name = split_name(split)
    other = _other_with_split(folder, name)
    if other is None:
        return read_coco(*_coco_split(folder, name))
    content = coco_content(other, other.parts[name])
    return dataset_of(annotation_file(content, folder, other.images))


def _folder_split(folder: Path, name: str, destination: Path, say: Say) -> tuple[Path, Path]:
    other = _other_with_split(folder, name)
    if other is None:
        return _coco_split(folder, name)
    only = replace(other, parts={name: other.parts[name]})
    converted = ConvertedFiles(only, write_parts(only, destination))
    for line in conversion_summary(converted):
        say(line)
    return converted.files[name], only.images


def _coco_split(folder: Path, name: str) -> tuple[Path, Path]:
    parts = coco_parts(folder)
    if name not in parts:
        raise DataError(_no_split(folder, name, parts))
    annotations, images = parts[name]
    if not images.is_dir():
        raise DataError(f"{annotations} is there, but the folder of its images, {images}, is not; add it")
    return annotations, images


def _other_with_split(folder: Path, name: str) -> Converted | None:
    """A folder that is not COCO's, read, which has that split; None if it is COCO's."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of a dataset")
    if coco_parts(folder):
        return None
    other = read_other(folder)
    if other is None:
        raise DataError(unknown_layout(folder))
    if name not in other.parts:
        raise DataError(_no_split(folder, name, other.parts))
    return other


def _no_split(what: Path | str, name: str, there: Iterable[str]) -> str:
    return f"{what} has no split {name!r}; it has {', '.join(there)}"


def _checked(data: object) -> Data:
    """Raises `DataError` for what is no data."""
    if isinstance(data, str | Path):
        return Path(data)
    if isinstance(data, Dataset | Mapping):
        return data
    raise DataError(
        f'data is of type {type(data).__name__}; give a folder, an htc.Dataset, or {{"train": Dataset, "val": Dataset}}'
    )


def _default_folder(data: Data) -> Path:
    """Below `runs/data`, by the name of the folder; of datasets, which have none, by their content."""
    if isinstance(data, Path):
        return Path("runs", "data", data.absolute().name)
    return Path("runs", "data", f"dataset-{digest({'train': data} if isinstance(data, Dataset) else by_split(data))}")


def _written_splits(data: Dataset | Mapping[str, Dataset], destination: Path, say: Say) -> Splits:
    datasets = by_split({"train": data} if isinstance(data, Dataset) else data)
    if "train" not in datasets:
        raise DataError(_no_split("data", "train", datasets))
    train = _written(datasets["train"], "train", destination, say)
    val = _written(datasets["val"], "val", destination, say) if "val" in datasets else (None, None)
    return Splits(*train, *val)


def _written(dataset: Dataset, name: str, destination: Path, say: Say) -> tuple[Path, Path]:
    files = save_split(dataset, destination, name)
    say(f"{name}: {dataset!r}, written as COCO: {files[0]}")
    for note in dataset.dropped:
        say(f"left out: {note}")
    return files


def _keep_quiet(_message: str) -> None:
    """Nobody is told."""


def conversion_summary(converted: ConvertedFiles) -> list[str]:
    """How the data set was read, for the user."""
    data = converted.data
    counts = ", ".join(
        f"{part}: {len(images)} images with {sum(len(p.objects) for p in images)} objects"
        for part, images in data.parts.items()
    )
    names = ", ".join(data.classes[:10]) + (", ..." if len(data.classes) > 10 else "")
    files = ", ".join(str(file) for file in converted.files.values())
    return [
        f"{data.images} is {data.kind} data; {counts}; {len(data.classes)} classes: {names}",
        f"as COCO: {files}",
        *(f"note: {note}" for note in data.notes),
    ]


def unknown_layout(folder: Path) -> str:
    """What a folder could have been, as an error message."""
    known = "".join(
        f"\n  {line}" for line in (*(f"{train} with {images}/: COCO" for train, images, _, _ in LAYOUTS), *OTHERS)
    )
    return (
        f"{folder} has none of the known layouts:{known}\narrange it like one of them, or name the parts: "
        f"--train-annotations, --train-images"
    )


def split_off(splits: Splits, share: float, destination: Path) -> Splits:
    """The training part divided: about `share` of its images to validation, chosen by a hash of their names.

    So an image stays where it is when others are added. Images with the same value of `group` in their record (crops
    of one micrograph, frames of one film) stay together. Raises `DataError` if either part would be empty.
    """
    if not 0 < share < 1:
        raise DataError(f"--val-share {share:g}: give a share between 0 and 1, such as 0.2")
    read_coco(splits.train_annotations, splits.train_images)
    content = json.loads(splits.train_annotations.read_bytes())
    chosen = {image["id"] for image in content["images"] if _place(image) < share}
    parts = {"val": chosen, "train": {image["id"] for image in content["images"]} - chosen}
    empty = [part for part, ids in parts.items() if not ids]
    if empty:
        raise DataError(
            f"--val-share {share:g} of {len(content['images'])} images leaves no image to {empty[0]}; give "
            f"another share"
        )
    files = {part: destination / ANNOTATIONS_FOLDER / f"instances_{part}_split.json" for part in parts}
    for part, ids in parts.items():
        write_json(files[part], _only(content, ids))
    return replace(
        splits, train_annotations=files["train"], val_annotations=files["val"], val_images=splits.train_images
    )


def _place(image: dict[str, Any]) -> float:
    """0..1, by the image's group or name alone."""
    name = str(image.get("group", Path(str(image["file_name"])).name))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def _only(content: dict[str, Any], ids: set[int | str]) -> dict[str, Any]:
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [annotation for annotation in content["annotations"] if annotation["image_id"] in ids],
    }
