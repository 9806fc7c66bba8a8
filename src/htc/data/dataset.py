"""Images and their annotations, typed and checked: the values every reader produces and every loader consumes.

The readers are imported when they are called: this module needs no torch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

if TYPE_CHECKING:
    from supervision import DetectionDataset

    from htc.data.records import DatasetRecord

NAMES_SHOWN = 5
"""Class names in the `repr` of a dataset."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Outlines whose union is the mask."""

    rings: tuple[Float[np.ndarray, " _"], ...]
    """x, y, x, y, ... in pixels of the image, at least three points each."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Polygons)
            and len(self.rings) == len(other.rings)
            and all(map(np.array_equal, self.rings, other.rings))
        )


@dataclass(frozen=True, slots=True)
class RunLengths:
    """COCO's run-length encoding, down the columns, background first."""

    counts: bytes | Int[np.ndarray, " R"]
    """COCO's compressed text, or the runs themselves."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunLengths) and np.array_equal(self.counts, other.counts)


@dataclass(frozen=True, slots=True)
class Instance:
    """One object of one image."""

    id: int | str
    label: int
    """0 .. K-1: place in `Dataset.classes`."""
    box: tuple[float, float, float, float]
    """xyxy, pixels of the image, clipped to it."""
    crowd: bool
    """From `iscrowd` alone: a region of uncounted objects, which is neither object nor background."""
    segmentation: Polygons | RunLengths | None
    area: float | None = None
    """Square pixels as annotated, by which the COCO evaluation sorts instances into small, medium and large; None:
    those of the mask or box.
    """


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its instances, maybe none."""

    id: int | str
    path: Path
    """Of an image in memory the name that it will be written as."""
    height: int
    width: int
    instances: tuple[Instance, ...]
    pixels: UInt8[np.ndarray, "H W 3"] | None = field(default=None, repr=False)
    """RGB, of an image that is not a file."""
    group: int | str | None = None
    """Images of one group stay together when a dataset is split."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ImageRecord)
            and (self.id, self.path, self.height, self.width, self.instances, self.group)
            == (other.id, other.path, other.height, other.width, other.instances, other.group)
            and np.array_equal(self.pixels, other.pixels)  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class PanopticMaps:
    """What COCO's panoptic annotations say of the images of one data set."""

    names: dict[int, str]
    """Of the classes, things and stuff, by their value in the maps."""
    folder: Path
    """PNGs whose pixels are segment ids, R + 256 G + 65536 B."""
    files: dict[int | str, str]
    """Name of the PNG of each image that has one, by image id."""
    segments: dict[int | str, dict[int, int]]
    """Class of each segment id of each image; a crowd has 255 (ignore)."""


@dataclass(frozen=True)
class SemanticMaps:
    """Maps of a data set whose semantic targets are not derived from its instances alone; each source lies over the
    one before.
    """

    folder: Path | None
    """PNGs of class numbers, named like the images."""
    absent: frozenset[int | str] = frozenset()
    """Images without a PNG in `folder`, by image id: their maps are panoptic alone."""
    panoptic: PanopticMaps | None = None
    instance_values: tuple[int, ...] | None = None
    """The instances are drawn over the maps, class k (0 .. K-1) as `instance_values[k]`; None: the maps stay as they
    are.
    """


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images with their instances; classes in the order of their category ids.

    Build one with `from_records`, `from_supervision`, `from_coco` or `from_folder`; every function that takes the
    folder of a dataset takes it too. Two datasets are equal if their classes, images and instances are.

    Example:
        >>> dataset = htc.Dataset.from_folder("my_data", split="val")
        >>> dataset
        Dataset(12 images, 340 instances, 3 classes: cat, dog, horse)
        >>> [len(image.instances) for image in dataset][:3]
        [31, 27, 40]
    """

    annotations: Path = field(compare=False)
    """The file that it was read from, or the function that built it; for messages."""
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageRecord, ...]
    dropped: tuple[str, ...] = field(default=(), compare=False)
    """Instances that cannot be learned from and were left out, each with its reason; for the user to read."""
    semantic_maps: SemanticMaps | None = None
    """None: semantic targets are derived from the instances."""

    @classmethod
    def from_records(
        cls, records: "Iterable[DatasetRecord] | Iterable[Mapping[str, Any]]", classes: Sequence[str] | None = None
    ) -> "Dataset":
        """Build a dataset from images and instances held in Python.

        Args:
            records: One dictionary per image, with N instances (`htc.data.records.DatasetRecord`):
                `image`: a path, a PIL image, or an RGB array (H, W, 3) uint8;
                `labels`: (N,) class names or indices into `classes`, `[]` for an image without instances;
                `boxes`: (N, 4) xyxy in pixels of the image, or None: those of the masks;
                `masks`: None, an (N, H, W) bool array, or per instance a bitmap (H, W), a list of polygons
                `[[x, y, x, y, ...], ...]` in pixels, COCO run lengths, or None for an instance without mask;
                `crowd`: (N,) bool, optional; `id` of the image, optional; `group`, optional: images of one group stay
                together when the data are split. Tensors on the CPU are taken as arrays.
            classes: Names in the order of their indices; None: the names in use, sorted.

        Raises:
            DataError: Names the index of each record that cannot be used, its image, what is wrong and what to do.

        Example:
            >>> outline = [[10, 10, 60, 10, 60, 40, 10, 40]]
            >>> htc.Dataset.from_records([{"image": "street.jpg", "labels": ["car"], "masks": [outline]}])
            Dataset(1 image, 1 instance, 1 class: car)
        """
        from htc.data.records import dataset_of_records

        return dataset_of_records(records, classes, "htc.Dataset.from_records")

    @classmethod
    def from_supervision(cls, dataset: "DetectionDataset") -> "Dataset":
        """Build a dataset from a `supervision.DetectionDataset`, with masks or without.

        Images that are files are not read. Crowds are those of `detections.data["iscrowd"]`, as supervision's own
        reader of COCO files sets it.

        Raises:
            DataError: Names the image, what is wrong and what to do: no `class_id`, a missing file, masks of another
                size.

        Example:
            >>> theirs = supervision.DetectionDataset.from_coco("images", "annotations.json", force_masks=True)
            >>> htc.Dataset.from_supervision(theirs)
            Dataset(12 images, 340 instances, 3 classes: cat, dog, horse)
        """
        from htc.data.formats.supervision_dataset import records_of_supervision
        from htc.data.records import dataset_of_records

        return dataset_of_records(records_of_supervision(dataset), dataset.classes, "htc.Dataset.from_supervision")

    @classmethod
    def from_coco(cls, annotations: str | PathLike[str], images: str | PathLike[str]) -> "Dataset":
        """Read a COCO instance file, whose images are in the folder `images`.

        Raises:
            DataError: Names the file, the record, what is wrong and what to do.

        Example:
            >>> htc.Dataset.from_coco("annotations/instances_val2017.json", "val2017")
            Dataset(5000 images, 36781 instances, 80 classes: person, bicycle, car, motorcycle, airplane, ...)
        """
        from htc.data.coco import read_coco

        return read_coco(Path(annotations), Path(images))

    @classmethod
    def from_folder(cls, folder: str | PathLike[str], split: str = "train") -> "Dataset":
        """Read one split of a folder in any layout that `htc train` takes: COCO, YOLO, labelme, label maps.

        Args:
            folder: The dataset; nothing is written into it.
            split: `train`, `val` (also `valid`, `validation`) or `test`.

        Raises:
            DataError: The layout is unknown, the folder has no such split (the message lists those it has), or a file
                cannot be used.

        Example:
            >>> htc.Dataset.from_folder("my_data", split="val")
            Dataset(12 images, 340 instances, 3 classes: cat, dog, horse)
        """
        from htc.data.formats.layouts import read_split

        return read_split(Path(folder), split)

    def to_coco(self) -> dict[str, Any]:
        """The content of a COCO instance file: `images`, `categories` and `annotations`.

        File names are relative to the common folder of all images, and those of images in memory are `000001.png`
        and so on, by position. Maps of semantic targets are not part of it.

        Example:
            >>> content = dataset.to_coco()
            >>> content["annotations"][0]["bbox"]
            [10.0, 10.0, 50.0, 30.0]
        """
        from htc.data.written import content_of, located

        return content_of(self, *located(self))

    def save(self, folder: str | PathLike[str], split: str = "train") -> tuple[Path, Path]:
        """Write `folder/annotations/instances_<split>.json`, and images in memory as PNGs into `folder/<split>`.

        Images that are files stay where they are.

        Returns:
            The annotation file and the folder of the images, as `from_coco` and `htc train` take them
            (`--train-annotations`, `--train-images`).

        Raises:
            OutputError: The folder cannot be written.

        Example:
            >>> annotations, images = dataset.save("my_data", split="val")
            >>> htc.Dataset.from_coco(annotations, images) == dataset
            True
        """
        from htc.data.written import save_split

        return save_split(self, Path(folder), split)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self.images)

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:NAMES_SHOWN]) + (", ..." if len(self.classes) > NAMES_SHOWN else "")
        instances = sum(len(record.instances) for record in self.images)
        counts = (
            f"{count} {word}{'' if count == 1 else 'es' if word == 'class' else 's'}"
            for count, word in ((len(self), "image"), (instances, "instance"), (len(self.classes), "class"))
        )
        return f"Dataset({', '.join(counts)}: {names})"
