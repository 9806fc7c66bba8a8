"""What an annotation file says, typed and checked: the values every reader produces and every loader consumes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, slots=True)
class Polygons:
    """Outlines whose union is the mask."""

    rings: tuple[Float[np.ndarray, " _"], ...]
    """x, y, x, y, ... in pixels of the picture, at least three points each."""


@dataclass(frozen=True, slots=True)
class RunLengths:
    """COCO's run-length encoding, down the columns, background first."""

    counts: bytes | Int[np.ndarray, " R"]
    """COCO's compressed text, or the runs themselves."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One object of one picture."""

    id: int | str
    label: int
    """0 .. K-1: place in `Dataset.classes`."""
    box: tuple[float, float, float, float]
    """xyxy, pixels of the picture, clipped to it."""
    crowd: bool
    """From `iscrowd` alone: a region of uncounted objects, which is neither object nor background."""
    segmentation: Polygons | RunLengths | None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture and its objects, maybe none."""

    id: int | str
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class PanopticMaps:
    """What COCO's panoptic annotations say of the pictures of one data set."""

    names: dict[int, str]
    """Of the classes, things and stuff, by their value in the maps."""
    folder: Path
    """PNGs whose pixels are segment ids, R + 256 G + 65536 B."""
    files: dict[int | str, str]
    """Name of the PNG of each picture that has one, by image id."""
    segments: dict[int | str, dict[int, int]]
    """Class of each segment id of each picture; a crowd has 255 (ignore)."""


@dataclass(frozen=True)
class SemanticMaps:
    """Maps of a data set whose semantic targets are not derived from its instances alone; each source lies over the
    one before.
    """

    folder: Path | None
    """PNGs of class numbers, named like the pictures."""
    absent: frozenset[int | str] = frozenset()
    """Pictures without a PNG in `folder`, by image id: their maps are panoptic alone."""
    panoptic: PanopticMaps | None = None
    instance_values: tuple[int, ...] | None = None
    """The instances are drawn over the maps, class k (0 .. K-1) as `instance_values[k]`; None: the maps stay as they
    are.
    """


@dataclass(frozen=True)
class Dataset:
    """Pictures with instances; classes in the order of their category ids."""

    annotations: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageRecord, ...]
    dropped: tuple[str, ...] = ()
    """Objects that cannot be learned from and were left out, each with its reason; for the user to read."""
    semantic_maps: SemanticMaps | None = None
    """None: semantic targets are derived from the instances."""

    def __len__(self) -> int:
        return len(self.images)
