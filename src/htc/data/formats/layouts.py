"""Any supported dataset as COCO files: a folder whose layout is detected, or datasets built in Python.

Other formats are converted and written to an output folder; images are not copied.
"""

import atexit
import functools
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from htc.data.annotation_file import AnnotationFile, annotation_file
from htc.data.coco import Splits, dataset_of, read_coco
from htc.data.dataset import Dataset
from htc.data.formats.coco_exports import parts_of, splits_of
from htc.data.formats.converted import Converted, coco_content, with_embedded, write_parts
from htc.data.formats.map_rules import AUTO, parse_map_options
from htc.data.formats.recognize import is_coco, read_other, unknown_layout
from htc.data.held_out import split_off
from htc.data.written import by_split, digest, save_split, split_name
from htc.errors import DataError

LOG = logging.getLogger("htc")
Say = Callable[[str], object]
Data = Path | Dataset | Mapping[str, Dataset]
"""A folder, one dataset (used for training), or datasets by split: `{"train": ..., "val": ...}`."""


@dataclass(frozen=True)
class ConvertedFiles:
    """A converted dataset: its content and the COCO file of each part."""

    data: Converted
    files: dict[str, Path]

    @property
    def splits(self) -> Splits:
        """Paths for training."""
        val = self.files.get("val")
        return Splits(self.files["train"], self.data.images, val, None if val is None else self.data.images)

    @property
    def training_flags(self) -> str:
        """Flags that pass the converted files to `htc train`."""
        return " ".join(
            f"--{part}-annotations {self.files[part]} --{part}-images {self.data.images}"
            for part in ("train", "val")
            if part in self.files
        )

    def to_json(self) -> dict[str, Any]:
        """Values for the JSON output of `htc convert`."""
        return {
            "images": str(self.data.images),
            "annotations": {part: str(file) for part, file in self.files.items()},
            "classes": list(self.data.classes),
            "notes": list(self.data.notes),
        }


def convert_data(folder: Path, destination: Path, label_maps: str = AUTO) -> ConvertedFiles:
    """Convert any dataset except COCO's and write `destination/annotations/instances_<part>.json`.

    Raises `DataError` for faults (file, line or shape, remedy) and for unknown layouts, `OutputError` if writing fails.
    """
    if is_coco(folder):
        raise DataError(f"{folder} is already COCO data: nothing to convert; train on it: htc train --data {folder}")
    return _written_files(_read(folder, label_maps), destination)


def _written_files(data: Converted, destination: Path) -> ConvertedFiles:
    data = with_embedded(data, destination)
    return ConvertedFiles(data, write_parts(data, destination))


def _read(folder: Path, label_maps: str) -> Converted:
    data = read_other(folder, parse_map_options(label_maps))
    if data is None:
        raise DataError(unknown_layout(folder))
    return data


def prepare_splits(
    data: Data, destination: Path, val_share: float | None = None, say: Say | None = None, label_maps: str = AUTO
) -> Splits:
    """Find the splits of any supported data; other formats than COCO are written to `destination`, and `say` is called
    with lines that describe how they were read.

    Without a validation split there is none, unless `val_share` (0..1) of the training images are held out for it,
    which is always reported. Raises `DataError` and `OutputError`.
    """
    say = say or _discard
    if not isinstance(data, Path):
        splits = _written_splits(data, destination, say)
    elif is_coco(data) or not data.is_dir():
        splits = splits_of(data)
    else:
        converted = convert_data(data, destination, label_maps)
        for line in conversion_summary(converted):
            say(line)
        splits = converted.splits
    if val_share is not None:
        if splits.val_annotations is not None:
            data_name = data if isinstance(data, Path) else "data"
            raise DataError(
                f"{data_name} has a validation split ({splits.val_annotations}), so --val-share has no effect: "
                f"remove it"
            )
        splits = split_off(splits, val_share, destination)
        say(
            f"{val_share:.0%} of the images, chosen by a hash of their names, are held out for validation: "
            f"{splits.val_annotations}"
        )
    elif splits.val_annotations is None:
        say("without a validation split there are no metrics; --val-share 0.2 holds out 20% of the training images")
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
    label_maps: str = AUTO,
    say: Say | None = None,
) -> Splits:
    """Find the annotation files and image folders of the training and validation splits, from `data` or from four
    paths.

    `data` is the folder of a dataset, a `Dataset` (used for training, unless `val_share` splits it), or datasets by
    split, `{"train": ..., "val": ...}`. Other formats than COCO are written to the folder `converted` (None: one below
    `runs/data`); `label_maps` prescribes how label maps are read (`parse_map_options`); `say` is called with a line for
    each step. Raises `DataError` with what is missing, and `OutputError`.
    """
    if data is not None:
        if any(path is not None for path in (train_annotations, train_images, val_annotations, val_images)):
            raise DataError("pass either --data DIR or --train-annotations with --train-images, not both")
        data = _checked(data)
        return prepare_splits(data, converted or _default_folder(data), val_share, say, label_maps)
    if val_share is not None:
        raise DataError(
            "--val-share splits the images of --data DIR; pass that, or --val-annotations with --val-images"
        )
    if train_annotations is None or train_images is None:
        raise DataError("nothing to train on: pass --data DIR, or --train-annotations JSON with --train-images DIR")
    if (val_annotations is None) != (val_images is None):
        raise DataError("--val-annotations and --val-images must be used together: pass both or neither")
    for annotations, images in ((train_annotations, train_images), (val_annotations, val_images)):
        if annotations is not None and (annotations.is_dir() or not annotations.exists()):
            raise DataError(f"{annotations}: no such file; give COCO annotations, an instance file (.json)")
        if images is not None and not images.is_dir():
            raise DataError(f"{images}: no such folder; give the folder of the images that {annotations} lists")
    return Splits(train_annotations, train_images, val_annotations, val_images)


def locate_split(
    data: str | Data, split: str, converted: Path | None = None, say: Say | None = None, label_maps: str = AUTO
) -> tuple[Path, Path]:
    """Find the annotation file and the image folder of one split of `data`, for an evaluation.

    `split` is `train`, `val` (also `valid`, `validation`) or `test`; a single `Dataset` is used for any split. `data`,
    `converted`, `label_maps` and `say` as in `locate_splits`. Raises `DataError` that lists the available splits, and
    `OutputError`.
    """
    data, name, say = _checked(data), split_name(split), say or _discard
    folder = converted or _default_folder(data)
    if isinstance(data, Path):
        return _folder_split(data, name, folder, say, label_maps)
    datasets = {name: data} if isinstance(data, Dataset) else by_split(data)
    if name not in datasets:
        raise DataError(_no_split("data", name, datasets))
    return _written(datasets[name], name, folder, say)


def read_split(folder: Path, split: str, label_maps: str = AUTO) -> Dataset:
    """Read one split of a folder in any supported layout, without writing to it; notes about how it was read are
    logged. Raises `DataError`.
    """
    name = split_name(split)
    other = _other_with_split(folder, name, label_maps)
    if other is None:
        return read_coco(*_coco_split(folder, name))
    for note in other.notes:
        LOG.warning("%s: %s", folder, note)
    return dataset_of(_file_of(other, name))


def read_parts(folder: Path, label_maps: str = AUTO) -> tuple[dict[str, AnnotationFile], tuple[str, ...]]:
    """Read all parts of a folder that is not COCO's as annotation files in memory, and the notes about how they were
    read. Raises `DataError`.
    """
    data = _read(folder, label_maps)
    return {name: _file_of(data, name) for name in data.parts}, data.notes


def _file_of(data: Converted, name: str) -> AnnotationFile:
    """One part as an annotation file in memory; images that are embedded in files are extracted until the end of the
    process.
    """
    if any(image.content is not None for image in data.parts[name]):
        data = with_embedded(data, _temporary_folder(data.folder))
    return annotation_file(coco_content(data, data.parts[name]), data.folder, data.images, name)


@functools.cache
def _temporary_folder(_: Path) -> Path:
    """A folder for each dataset that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="htc-embedded-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _folder_split(folder: Path, name: str, destination: Path, say: Say, label_maps: str) -> tuple[Path, Path]:
    other = _other_with_split(folder, name, label_maps)
    if other is None:
        return _coco_split(folder, name)
    converted = _written_files(replace(other, parts={name: other.parts[name]}), destination)
    for line in conversion_summary(converted):
        say(line)
    return converted.files[name], converted.data.images


def _coco_split(folder: Path, name: str) -> tuple[Path, Path]:
    parts = parts_of(folder)
    if name not in parts:
        raise DataError(_no_split(folder, name, parts))
    annotations, images = parts[name]
    if not images.is_dir():
        raise DataError(f"{annotations} exists, but its image folder {images} does not; add it")
    return annotations, images


def _other_with_split(folder: Path, name: str, label_maps: str) -> Converted | None:
    """Read a folder that is not COCO's and has that split; None if it is COCO's."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of a dataset")
    if is_coco(folder):
        return None
    other = _read(folder, label_maps)
    if name not in other.parts:
        raise DataError(_no_split(folder, name, other.parts))
    return other


def _no_split(source: Path | str, name: str, available: Iterable[str]) -> str:
    return f"{source} has no split {name!r}; it has {', '.join(available)}"


def _checked(data: object) -> Data:
    """Check the type of the data; raises `DataError`."""
    if isinstance(data, str | Path):
        return Path(data)
    if isinstance(data, Dataset | Mapping):
        return data
    raise DataError(
        f'data is of type {type(data).__name__}; give a folder, an htc.Dataset, or {{"train": Dataset, "val": Dataset}}'
    )


def _default_folder(data: Data) -> Path:
    """Folder below `runs/data`, named like the folder of the data; for datasets, by a hash of their content."""
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
        say(f"dropped: {note}")
    return files


def _discard(_message: str) -> None:
    """Ignore the message."""


def conversion_summary(converted: ConvertedFiles) -> list[str]:
    """Lines for the user that describe how the dataset was read."""
    data = converted.data
    counts = ", ".join(
        f"{part}: {len(images)} images with {sum(len(p.objects) for p in images)} instances"
        for part, images in data.parts.items()
    )
    names = ", ".join(data.classes[:10]) + (", ..." if len(data.classes) > 10 else "")
    classes = f"{len(data.classes)} class{'' if len(data.classes) == 1 else 'es'}"
    files = ", ".join(str(file) for file in converted.files.values())
    return [
        f"{data.images} is {data.kind} data; {counts}; {classes}: {names}",
        f"as COCO: {files}",
        *(f"note: {note}" for note in data.notes),
    ]
