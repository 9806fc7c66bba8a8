"""Images and instances as columns in NumPy buffers, and the sequence of `ImageRecord`s that reads from them.

One buffer per field instead of one object per instance: COCO's 860,000 instances take about 380 MB, which worker
processes share, since reading an array does not change it (a Python object's reference count does). Polygons and run
lengths of all instances follow each other; offsets mark where each one starts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from htc.data.dataset import ImageRecord, Instance, Polygons, RunLengths
from htc.data.holes import with_holes
from htc.data.mask_encodings import encode_mask
from htc.data.written import xywh_of

MAX_SIDE = 2**31 - 1
"""Largest image side in pixels that the COCO tools support."""
ISCROWD, STATED_ISCROWD, IGNORE, STATED_IGNORE = 1, 2, 4, 8
POLYGONS, TEXT_RUNS, LISTED_RUNS, EMPTY_LIST = 16, 32, 64, 128
NESTED = 256
"""Bits of `Columns.flags`: values of `iscrowd` and `ignore` and whether they are stated; the encoding of the mask (none
of the four: there is no `segmentation`); whether a polygon may be a hole, since its box is inside that of another.
"""
CROWD = ISCROWD | IGNORE
MASKED = POLYGONS | TEXT_RUNS | LISTED_RUNS
RECORD_FIELDS = frozenset(("id", "path", "height", "width", "instances", "pixels", "group"))
INSTANCE_FIELDS = frozenset(("id", "label", "box", "crowd", "segmentation", "area"))
"""Fields that the columns represent; others must be added here and below."""


@dataclass(frozen=True, eq=False)
class Columns:
    """I images and N instances in the file's order, of which the M usable ones are also ordered by image.

    Ids are int64 or text. Texts are UTF-8 in one buffer with I + 1 (or N + 1) offsets.
    """

    image_ids: np.ndarray
    sizes: Int[np.ndarray, "I 2"]
    """(height, width)."""
    names: UInt8[np.ndarray, " _"]
    name_starts: Int[np.ndarray, " I1"]
    extras: UInt8[np.ndarray, " _"]
    """Further fields of the image records as JSON objects; most are empty."""
    extra_starts: Int[np.ndarray, " I1"]
    ids: np.ndarray
    owners: Int[np.ndarray, " N"]
    """Index of each instance's image."""
    labels: Int[np.ndarray, " N"]
    """0 .. K-1: index of the category by ascending id."""
    boxes: Float[np.ndarray, "N 4"]
    """x, y, width, height as annotated."""
    areas: Float[np.ndarray, " N"]
    """As annotated; NaN: none."""
    flags: Int[np.ndarray, " N"]
    ring_starts: Int[np.ndarray, " N1"]
    """The polygons of instance i are `ring_starts[i]` to `ring_starts[i + 1]`."""
    number_starts: Int[np.ndarray, " R1"]
    """The numbers of polygon r are `number_starts[r]` to `number_starts[r + 1]`."""
    coordinates: Float[np.ndarray, " _"]
    """x, y, x, y, ... of all polygons."""
    run_starts: Int[np.ndarray, " N1"]
    runs: UInt8[np.ndarray, " _"]
    """COCO's text, or int64 runs."""
    order: Int[np.ndarray, " M"]
    """Usable instances by image, in the file's order within each."""
    order_starts: Int[np.ndarray, " I1"]
    """The usable instances of image i are `order[order_starts[i]:order_starts[i + 1]]`."""
    categories: UInt8[np.ndarray, " _"]
    """JSON: the records of the categories."""

    @cached_property
    def category_records(self) -> list[dict[str, Any]]:
        """The records of the categories, in the file's order."""
        return json.loads(self.categories.tobytes())

    @cached_property
    def classes(self) -> dict[int, str]:
        """Class names by category id, sorted by id."""
        return dict(sorted((record["id"], record["name"]) for record in self.category_records))

    @property
    def crowd(self) -> Bool[np.ndarray, " N"]:
        """Whether each instance is a crowd."""
        return (self.flags & (CROWD | IGNORE)) != 0

    @cached_property
    def clipped(self) -> Float[np.ndarray, "N 4"]:
        """xyxy boxes clipped to the image."""
        return clipped_boxes(self.boxes, self.sizes[self.owners])

    def name(self, image: int) -> str:
        """File name of an image."""
        return self.names[self.name_starts[image] : self.name_starts[image + 1]].tobytes().decode()

    def extra(self, image: int) -> dict[str, Any]:
        """Further fields of an image's record."""
        text = self.extras[self.extra_starts[image] : self.extra_starts[image + 1]].tobytes()
        return json.loads(text) if text else {}

    def instances(self, image: int, *, holes: bool = True) -> tuple[Instance, ...]:
        """The usable instances of an image; with `holes`, polygons inside others are holes."""
        chosen = self.order[self.order_starts[image] : self.order_starts[image + 1]]
        height, width = self.sizes[image].tolist()
        return tuple(
            Instance(
                id,
                label,
                (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))),
                bool(flags & CROWD),
                self._mask(index, height, width) if holes and flags & NESTED else self.segmentation(index),
                None if area != area else area,  # NaN
            )
            for index, id, label, (x, y, w, h), flags, area in zip(
                chosen.tolist(),
                self.ids[chosen].tolist(),
                self.labels[chosen].tolist(),
                self.boxes[chosen].tolist(),
                self.flags[chosen].tolist(),
                self.areas[chosen].tolist(),
                strict=True,
            )
        )

    def segmentation(self, instance: int) -> Polygons | RunLengths | None:
        """The mask of an instance, as annotated."""
        flags = int(self.flags[instance])
        if flags & POLYGONS:
            first, last = self.ring_starts[instance : instance + 2].tolist()
            ends = self.number_starts[first : last + 1].tolist()
            return Polygons(tuple(self.coordinates[a:b].copy() for a, b in pairwise(ends)))
        if flags & (TEXT_RUNS | LISTED_RUNS):
            runs = self.runs[self.run_starts[instance] : self.run_starts[instance + 1]].tobytes()
            return RunLengths(runs if flags & TEXT_RUNS else np.frombuffer(runs, np.int64))
        return None

    def _mask(self, instance: int, height: int, width: int) -> Polygons | RunLengths | None:
        """The mask of an instance without its holes."""
        outline = self.segmentation(instance)
        return with_holes(outline, height, width) if isinstance(outline, Polygons) else outline

    def truth(self, instance: int) -> dict[str, Any]:
        """The record of an instance for the evaluation: `ignore` is a crowd, and the mask is compressed RLE, in which
        holes are filled.
        """
        record, outline = self._stated(instance), self.segmentation(instance)
        record["iscrowd"] = int(bool(self.flags[instance] & CROWD))
        if outline is not None:
            encoded = encode_mask(outline, *self.sizes[self.owners[instance]].tolist())
            record["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
        return record

    def record(self, instance: int) -> dict[str, Any]:
        """The record of an instance, with the fields that the columns contain."""
        record, outline = self._stated(instance), self.segmentation(instance)
        if isinstance(outline, Polygons):
            record["segmentation"] = [ring.tolist() for ring in outline.rings]
        elif outline is not None:
            counts = outline.counts
            counts = counts.decode("ascii") if isinstance(counts, bytes) else counts.tolist()
            record["segmentation"] = {"size": self.sizes[self.owners[instance]].tolist(), "counts": counts}
        elif self.flags[instance] & EMPTY_LIST:
            record["segmentation"] = []
        return record

    def _stated(self, instance: int) -> dict[str, Any]:
        """The record of an instance without its mask."""
        flags = int(self.flags[instance])
        record: dict[str, Any] = {
            "id": self.ids[instance].item(),
            "image_id": self.image_ids[self.owners[instance]].item(),
            "category_id": self.category_ids[self.labels[instance]],
            "bbox": self.boxes[instance].tolist(),
        }
        area = float(self.areas[instance])
        if area == area:  # not NaN
            record["area"] = area
        if flags & STATED_ISCROWD:
            record["iscrowd"] = flags & ISCROWD
        if flags & STATED_IGNORE:
            record["ignore"] = int(bool(flags & IGNORE))
        return record

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """Category id of each label."""
        return tuple(self.classes)


ARRAYS = tuple(field.name for field in fields(Columns))


def clipped_boxes(boxes: Float[np.ndarray, "N 4"], sizes: Int[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 4"]:
    """xyxy of x, y, width, height, clipped to images of these sizes (height, width)."""
    return np.stack(
        (
            np.maximum(boxes[:, 0], 0.0),
            np.maximum(boxes[:, 1], 0.0),
            np.minimum(boxes[:, 0] + boxes[:, 2], sizes[:, 1]),
            np.minimum(boxes[:, 1] + boxes[:, 3], sizes[:, 0]),
        ),
        axis=1,
    )


def by_owner(owners: Int[np.ndarray, " N"], usable: Bool[np.ndarray, " N"], images: int) -> tuple[Any, Any]:
    """The usable instances by image in their order, and where each image's start: `order` and `order_starts`."""
    chosen = np.flatnonzero(usable)
    order = chosen[np.argsort(owners[chosen], kind="stable")]
    return order.astype(np.int32), np.searchsorted(owners[order], np.arange(images + 1)).astype(np.int64)


class Growing:
    """A buffer that grows without a second copy of its content: the system moves its pages."""

    def __init__(self, dtype: Any) -> None:
        self._buffer = np.empty(1024, dtype)
        self._length = 0

    def extend(self, values: np.ndarray) -> None:
        """Append values."""
        end = self._length + len(values)
        if end > len(self._buffer):
            self._buffer.resize(max(end, len(self._buffer) * 5 // 4), refcheck=False)
        self._buffer[self._length : end] = values
        self._length = end

    def finish(self) -> np.ndarray:
        """Return all values; the buffer is not extended afterwards."""
        self._buffer.resize(self._length, refcheck=False)
        return self._buffer


def texts(values: Sequence[bytes]) -> tuple[UInt8[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """Texts in one buffer, and their offsets."""
    return np.frombuffer(b"".join(values), np.uint8), starts_of(list(map(len, values)))


def starts_of(lengths: Sequence[int] | np.ndarray) -> Int[np.ndarray, " _"]:
    """Offsets of consecutive parts of these lengths, from 0, with the end of the last one."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


class InstanceTable(NamedTuple):
    """The usable instances of I images by image, N in all, without their masks."""

    sizes: Int[np.ndarray, "I 2"]
    """(height, width) of each image."""
    owners: Int[np.ndarray, " N"]
    """Index of each instance's image."""
    labels: Int[np.ndarray, " N"]
    boxes: Float[np.ndarray, "N 4"]
    """xyxy, pixels of the image."""
    crowd: Bool[np.ndarray, " N"]
    masked: Bool[np.ndarray, " N"]
    """Whether each instance has a mask."""

    def without_crowds(self) -> "InstanceTable":
        """The same images without their crowds."""
        return InstanceTable(self.sizes, *(column[~self.crowd] for column in self[1:]))


class ColumnImages(Sequence[ImageRecord]):
    """The images of `Columns`; a record is built when it is accessed.

    Indices may be NumPy integers; a slice is another sequence of the same columns. It equals a tuple of equal records.
    """

    def __init__(
        self,
        columns: Columns,
        folder: Path | None,
        paths: Mapping[int, str] | None = None,
        chosen: Int[np.ndarray, " _"] | None = None,
        *,
        holes: bool = True,
    ) -> None:
        """`paths`: those of images that are not at `folder / name`, by index; `chosen`: a subset, None: all images;
        `holes`: polygons inside others are holes.
        """
        self.columns = columns
        self.folder = folder
        self.paths = paths or {}
        self.chosen = chosen
        self.holes = holes

    def __len__(self) -> int:
        return len(self.columns.image_ids) if self.chosen is None else len(self.chosen)

    @overload
    def __getitem__(self, index: SupportsIndex) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "ColumnImages": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "ImageRecord | ColumnImages":
        if isinstance(index, slice):
            chosen = np.arange(len(self))[index] if self.chosen is None else self.chosen[index]
            return ColumnImages(self.columns, self.folder, self.paths, chosen, holes=self.holes)
        image = range(len(self))[index] if self.chosen is None else int(self.chosen[index])
        height, width = self.columns.sizes[image].tolist()
        return ImageRecord(
            self.columns.image_ids[image].item(),
            self._path(image),
            height,
            width,
            self.columns.instances(image, holes=self.holes),
            group=self.columns.extra(image).get("group"),
        )

    def table(self) -> InstanceTable:
        """The instances of these images."""
        columns = self.columns
        chosen = np.arange(len(columns.image_ids)) if self.chosen is None else self.chosen
        counts = np.diff(columns.order_starts)[chosen]
        # Positions in `order` of the instances of each chosen image, one image after the other.
        first = np.repeat(columns.order_starts[chosen] - (np.cumsum(counts) - counts), counts)
        instances = columns.order[first + np.arange(counts.sum())]
        sizes = columns.sizes.astype(np.int64)
        flags = columns.flags[instances]
        return InstanceTable(
            sizes[chosen],
            np.repeat(np.arange(len(chosen)), counts),
            columns.labels[instances].astype(np.int64),
            clipped_boxes(columns.boxes[instances], sizes[columns.owners[instances]]),
            (flags & (CROWD | IGNORE)) != 0,
            (flags & MASKED) != 0,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ColumnImages | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"ColumnImages({len(self)} images)"

    def _path(self, image: int) -> Path:
        path = self.paths.get(image)
        if path is not None:
            return Path(path)
        name = self.columns.name(image)
        return Path(name) if self.folder is None else self.folder / name


def _equal(first: ImageRecord, second: object) -> bool:
    return first == second


def table_of(images: Sequence[ImageRecord]) -> InstanceTable:
    """The instances of a dataset's images; no record is built if they are in columns."""
    if isinstance(images, ColumnImages):
        return images.table()
    instances = [instance for record in images for instance in record.instances]
    return InstanceTable(
        np.array([(record.height, record.width) for record in images], np.int64).reshape(-1, 2),
        np.repeat(np.arange(len(images)), [len(record.instances) for record in images]),
        np.array([instance.label for instance in instances], np.int64),
        np.array([instance.box for instance in instances], np.float64).reshape(-1, 4),
        np.array([instance.crowd for instance in instances], bool),
        np.array([instance.segmentation is not None for instance in instances], bool),
    )


def packed(images: Sequence[ImageRecord], classes: Mapping[int, str]) -> Sequence[ImageRecord]:
    """The same images in columns; unchanged if columns cannot represent them: pixels in memory, or ids of two types."""
    instances = [instance for record in images for instance in record.instances]
    image_ids, ids = _ids([record.id for record in images]), _ids([instance.id for instance in instances])
    if image_ids is None or ids is None or any(record.pixels is not None for record in images):
        return tuple(images)
    owners = np.repeat(np.arange(len(images), dtype=np.int32), [len(record.instances) for record in images])
    outlines = [instance.segmentation for instance in instances]
    rings = [outline.rings if isinstance(outline, Polygons) else () for outline in outlines]
    names, name_starts = texts([str(record.path).encode() for record in images])
    extras, extra_starts = texts(
        [b"" if record.group is None else json.dumps({"group": record.group}).encode() for record in images]
    )
    runs, run_starts = texts([_runs(outline) for outline in outlines])
    categories = [{"id": id, "name": name} for id, name in classes.items()]
    order, order_starts = by_owner(owners, np.ones(len(owners), bool), len(images))
    columns = Columns(
        image_ids=image_ids,
        sizes=np.array([(record.height, record.width) for record in images], np.int32).reshape(-1, 2),
        names=names,
        name_starts=name_starts,
        extras=extras,
        extra_starts=extra_starts,
        ids=ids,
        owners=owners,
        labels=np.array([instance.label for instance in instances], np.int32),
        boxes=np.array([xywh_of(instance.box) for instance in instances], np.float64).reshape(-1, 4),
        areas=np.array([np.nan if one.area is None else one.area for one in instances], np.float64),
        flags=np.array([_flags(instance) for instance in instances], np.int16),
        ring_starts=starts_of(list(map(len, rings))),
        number_starts=starts_of([len(ring) for ring in chain.from_iterable(rings)]),
        coordinates=np.concatenate([np.zeros(0), *chain.from_iterable(rings)]),
        run_starts=run_starts,
        runs=runs,
        order=order,
        order_starts=order_starts,
        categories=np.frombuffer(json.dumps(categories).encode(), np.uint8),
    )
    return ColumnImages(columns, None)


def _ids(values: list[int | str]) -> np.ndarray | None:
    """int64 or text; None for a mixture, integers of more than 64 bits, or text that NumPy would cut."""
    if all(type(value) is int for value in values):
        fits = all(-(2**63) <= value < 2**63 for value in values if isinstance(value, int))
        return np.array(values, np.int64) if fits else None
    if all(isinstance(value, str) and not value.endswith("\0") for value in values):
        return np.array(values, np.str_)
    return None


def _flags(instance: Instance) -> int:
    outline = instance.segmentation
    flags = ISCROWD if instance.crowd else 0
    if isinstance(outline, Polygons):
        return flags | POLYGONS
    if outline is not None:
        return flags | (TEXT_RUNS if isinstance(outline.counts, bytes) else LISTED_RUNS)
    return flags


def _runs(outline: Polygons | RunLengths | None) -> bytes:
    if not isinstance(outline, RunLengths):
        return b""
    return outline.counts if isinstance(outline.counts, bytes) else outline.counts.astype(np.int64).tobytes()
