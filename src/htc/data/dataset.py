"""Images and their annotations, typed and validated: every reader returns them, every loader takes them.

Readers are imported when they are called: this module does not import torch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

if TYPE_CHECKING:
    from supervision import DetectionDataset

    from htc.data.records import DatasetRecord

NAMES_SHOWN = 5
"""Number of class names in the `repr` of a dataset."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons whose union is the mask."""

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
    """COCO's compressed string, or the runs themselves."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunLengths) and np.array_equal(self.counts, other.counts)


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated instance of an image."""

    id: int | str
    label: int
    """0 .. K-1: index in `Dataset.classes`."""
    box: tuple[float, float, float, float]
    """xyxy, pixels of the image, clipped to it."""
    crowd: bool
    """Set by `iscrowd` only: a region of uncounted instances, which is neither instance nor background."""
    segmentation: Polygons | RunLengths | None
    area: float | None = None
    """Annotated area in square pixels, by which the COCO evaluation sorts instances into small, medium and large; None:
    the area of the mask or box.
    """


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image and its instances, if any."""

    id: int | str
    path: Path
    """For an image in memory, the name that it will be saved under."""
    height: int
    width: int
    instances: tuple[Instance, ...]
    pixels: UInt8[np.ndarray, "H W 3"] | None = field(default=None, repr=False)
    """RGB pixels of an image that is not a file."""
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
    """COCO panoptic annotations of the images of a dataset."""

    names: dict[int, str]
    """Names of the classes, things and stuff, by their value in the maps."""
    folder: Path
    """PNGs whose pixels are segment ids, R + 256 G + 65536 B."""
    files: dict[int | str, str]
    """File name of each image's PNG, by image id."""
    segments: dict[int | str, dict[int, int]]
    """Class of each segment id of each image; crowds have 255 (ignore)."""


@dataclass(frozen=True)
class SemanticMaps:
    """Semantic maps of a dataset that are not only derived from its instances; each source overrides the one before."""

    folder: Path | None
    """PNGs of class indices, named like the images."""
    absent: frozenset[int | str] = frozenset()
    """Ids of images without a PNG in `folder`, which have only a panoptic map."""
    panoptic: PanopticMaps | None = None
    instance_values: tuple[int, ...] | None = None
    """The instances are drawn over the maps, class k (0 .. K-1) as `instance_values[k]`; None: they are not drawn."""


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
    images: Sequence[ImageRecord]
    dropped: tuple[str, ...] = field(default=(), compare=False)
    """Instances that were dropped as unusable for training, each with its reason, for the user."""
    semantic_maps: SemanticMaps | None = None
    """None: semantic targets are derived from the instances."""

    @classmethod
    def from_records(
        cls, records: "Iterable[DatasetRecord] | Iterable[Mapping[str, Any]]", classes: Sequence[str] | None = None
    ) -> "Dataset":
        """Build a dataset from images and instances in memory.

        Args:
            records: One dictionary per image, with N instances (`htc.data.records.DatasetRecord`):
                `image`: a path, a PIL image, or an RGB array (H, W, 3) uint8;
                `labels`: (N,) class names or indices into `classes`, `[]` for an image without instances;
                `boxes`: (N, 4) xyxy in pixels of the image, or None: those of the masks;
                `masks`: None, an (N, H, W) bool array, or per instance a bitmap (H, W), a list of polygons
                `[[x, y, x, y, ...], ...]` in pixels, COCO RLE, or None for an instance without a mask;
                `crowd`: (N,) bool, optional; `id` of the image, optional; `group`, optional: images of one group stay
                together when the data are split. Tensors on the CPU are accepted as arrays.
            classes: Names in the order of their indices; None: the names in use, sorted.

        Raises:
            DataError: A record cannot be used; the message has its index, its image, what is wrong and what to do.

        Example:
            >>> outline = [[10, 10, 60, 10, 60, 40, 10, 40]]
            >>> htc.Dataset.from_records([{"image": "street.jpg", "labels": ["car"], "masks": [outline]}])
            Dataset(1 image, 1 instance, 1 class: car)
        """
        from htc.data.records import dataset_of_records

        return dataset_of_records(records, classes, "htc.Dataset.from_records")

    @classmethod
    def from_supervision(cls, dataset: "DetectionDataset") -> "Dataset":
        """Build a dataset from a `supervision.DetectionDataset`, with or without masks.

        Images that are files are not read. Crowds are given by `detections.data["iscrowd"]`, as set by supervision's
        reader of COCO files.

        Raises:
            DataError: Missing `class_id`, a missing file, or masks of another size; the message has the image and the
                remedy.

        Example:
            >>> source = supervision.DetectionDataset.from_coco("images", "annotations.json", force_masks=True)
            >>> htc.Dataset.from_supervision(source)
            Dataset(12 images, 340 instances, 3 classes: cat, dog, horse)
        """
        from htc.data.formats.supervision_dataset import records_of_supervision
        from htc.data.records import dataset_of_records

        return dataset_of_records(records_of_supervision(dataset), dataset.classes, "htc.Dataset.from_supervision")

    @classmethod
    def from_coco(
        cls, annotations: str | PathLike[str], images: str | PathLike[str], *, coco_holes: Literal["on", "off"] = "on"
    ) -> "Dataset":
        """Read a COCO instance file, whose images are in the folder `images`.

        Args:
            annotations: The file.
            images: The folder of its images.
            coco_holes: "on": a polygon wholly inside another, of the opposite orientation, is a hole; "off": polygons
                are a union, as COCO's tools read them.

        Raises:
            DataError: The file cannot be used; the message has the file, the record, what is wrong and what to do.

        Example:
            >>> htc.Dataset.from_coco("annotations/instances_val2017.json", "val2017")
            Dataset(5000 images, 36781 instances, 80 classes: person, bicycle, car, motorcycle, airplane, ...)
        """
        from htc.data.coco import read_coco

        return read_coco(Path(annotations), Path(images), holes=coco_holes != "off")

    @classmethod
    def from_folder(cls, folder: str | PathLike[str], split: str = "train", *, label_maps: str = "auto") -> "Dataset":
        """Read one split of a folder in any layout that `htc train` accepts: COCO, YOLO, labelme, label maps.

        Args:
            folder: The dataset; nothing is written to it.
            split: `train`, `val` (also `valid`, `validation`) or `test`.
            label_maps: How label maps are read, as in `htc.train`.

        Raises:
            DataError: The layout is unknown, the folder has no such split (the message lists those it has), or a file
                cannot be used.

        Example:
            >>> htc.Dataset.from_folder("my_data", split="val")
            Dataset(12 images, 340 instances, 3 classes: cat, dog, horse)
        """
        from htc.data.formats.layouts import read_split

        return read_split(Path(folder), split, label_maps)

    def to_coco(self) -> dict[str, Any]:
        """The content of a COCO instance file: `images`, `categories` and `annotations`.

        File names are relative to the common folder of all images; images in memory are named `000001.png` and so on,
        by position. Semantic maps are not included.

        Example:
            >>> content = dataset.to_coco()
            >>> content["annotations"][0]["bbox"]
            [10.0, 10.0, 50.0, 30.0]
        """
        from htc.data.written import content_of, located

        return content_of(self, *located(self))

    def save(self, folder: str | PathLike[str], split: str = "train") -> tuple[Path, Path]:
        """Write `folder/annotations/instances_<split>.json`, and images in memory as PNGs to `folder/<split>`.

        Images that are files are not copied.

        Returns:
            The annotation file and the folder of the images, as `from_coco` and `htc train` take them
            (`--train-annotations`, `--train-images`).

        Raises:
            OutputError: The folder cannot be written to.

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
        from htc.data.columns import table_of

        names = ", ".join(self.classes[:NAMES_SHOWN]) + (", ..." if len(self.classes) > NAMES_SHOWN else "")
        instances = len(table_of(self.images).labels)
        counts = (
            f"{count} {word}{'' if count == 1 else 'es' if word == 'class' else 's'}"
            for count, word in ((len(self), "image"), (instances, "instance"), (len(self.classes), "class"))
        )
        return f"Dataset({', '.join(counts)}: {names})"
