"""The annotations of a file as a table, for checks that would otherwise build a million entries.

For a file in columns, boxes and areas of all outlines are computed together; only those that may have a fault are
read one by one, as `AnnotationEntry.outline` does in other files.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.data.columns import CROWD, IGNORE, LISTED_RUNS, MASKED, NESTED, TEXT_RUNS, Columns
from htc.data.mask_encodings import read_counts
from htc.data.segmentation import OUTSIDE_PIXELS, SMALL_AREA

if TYPE_CHECKING:
    from htc.data.annotation_file import AnnotationEntry

RINGS = 50_000
"""Polygons whose shapes are computed at a time."""
NARROW = 1e-3
"""Square pixels below which a polygon may enclose no area; more than rounding errors."""
ROUNDING = 1e-6


class AnnotationTable(NamedTuple):
    """N annotations, in the order of `AnnotationFile.annotations`."""

    images: Int[np.ndarray, " N"]
    """Position of each annotation's image record."""
    labels: Int[np.ndarray, " N"]
    """Index of its class; -1: unknown."""
    sized: Bool[np.ndarray, " N"]
    """Whether the size of its image is known."""
    crowd: Bool[np.ndarray, " N"]
    """As `AnnotationEntry.crowd`, likewise `ignored`, `segmented`."""
    ignored: Bool[np.ndarray, " N"]
    segmented: Bool[np.ndarray, " N"]
    boxed: Bool[np.ndarray, " N"]
    """Whether it has a valid box."""
    usable: Bool[np.ndarray, " N"]
    """Whether its outline is usable."""
    where: Float[np.ndarray, "N 4"]
    """`AnnotationEntry.where`, xyxy; NaN: none."""
    areas: Float[np.ndarray, " N"]
    """`Outline.area`; NaN: unknown, it is not needed."""
    doubtful: Bool[np.ndarray, " N"]
    """Whether its outline may have a fault."""


def table_of_entries(entries: "Sequence[AnnotationEntry]", classes: Sequence[int]) -> AnnotationTable:
    """The table of annotations that are not in columns."""
    labels = {category: label for label, category in enumerate(classes)}
    nowhere = (np.nan,) * 4
    return AnnotationTable(
        np.array([one.image.position for one in entries], np.int64),
        np.array([-1 if one.category is None else labels.get(one.category, -1) for one in entries], np.int64),
        np.array([one.image.size is not None for one in entries], bool),
        np.array([one.crowd for one in entries], bool),
        np.array([one.ignored for one in entries], bool),
        np.array([one.segmented for one in entries], bool),
        np.array([one.box is not None for one in entries], bool),
        np.array([one.outline.segmentation is not None for one in entries], bool),
        np.array([one.where or nowhere for one in entries], np.float64).reshape(-1, 4),
        np.full(len(entries), np.nan),
        np.ones(len(entries), bool),
    )


def table_of_columns(columns: Columns, entries: "Sequence[AnnotationEntry]") -> AnnotationTable:
    """The table of annotations in columns; `entries` are read where an outline may have a fault."""
    flags = columns.flags
    usable = (flags & MASKED) != 0
    left, top, width, height = columns.boxes.T
    where = np.stack((left, top, left + width, top + height), axis=1)
    areas, doubtful = np.zeros(len(flags)), (flags & NESTED) != 0
    _add_polygons(columns, where, areas, doubtful)
    _add_runs(columns, where, areas, doubtful)
    for index in np.flatnonzero(doubtful).tolist():
        one = entries[index]
        usable[index] = one.outline.segmentation is not None
        where[index] = one.where or np.nan
    return AnnotationTable(
        columns.owners.astype(np.int64),
        columns.labels.astype(np.int64),
        np.ones(len(flags), bool),
        (flags & CROWD) != 0,
        (flags & IGNORE) != 0,
        (flags & MASKED) != 0,
        np.ones(len(flags), bool),
        usable,
        where,
        areas,
        doubtful,
    )


def _add_polygons(
    columns: Columns, where: Float[np.ndarray, "N 4"], areas: Float[np.ndarray, " N"], doubtful: Bool[np.ndarray, " N"]
) -> None:
    """Fill in the boxes and areas of polygons as `htc.data.segmentation.read_outline` does."""
    count = len(areas)
    first = 0
    while first < count:
        last = int(np.searchsorted(columns.ring_starts, columns.ring_starts[first] + RINGS, side="right")) - 1
        last = min(max(last, first + 1), count)
        rings = columns.ring_starts[first : last + 1]
        chosen = np.flatnonzero(np.diff(rings)) + first
        if len(chosen):
            numbers = columns.number_starts[rings[0] : rings[-1] + 1]
            points = columns.coordinates[numbers[0] : numbers[-1]].reshape(-1, 2)
            starts = (numbers[:-1] - numbers[0]) // 2
            _add_rings(columns, points, starts, chosen, where, areas, doubtful)
        first = last


def _add_rings(
    columns: Columns,
    points: Float[np.ndarray, "P 2"],
    starts: Int[np.ndarray, " R"],
    chosen: Int[np.ndarray, " M"],
    where: Float[np.ndarray, "N 4"],
    areas: Float[np.ndarray, " N"],
    doubtful: Bool[np.ndarray, " N"],
) -> None:
    """The polygons of the `chosen` instances, which follow each other in `points`."""
    following = np.arange(1, len(points) + 1)
    following[np.append(starts[1:], len(points)) - 1] = starts
    x, y = points.T
    area = np.abs(np.add.reduceat(x * y[following] - y * x[following], starts)) / 2
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    heads = columns.ring_starts[chosen] - columns.ring_starts[chosen[0]]
    sizes = columns.sizes[columns.owners[chosen]].astype(np.float64)
    odd = (area < NARROW) | ((low >= 0).all(1) & (high <= 1).all(1))
    doubtful[chosen] |= np.logical_or.reduceat(odd, heads)
    low, high = np.minimum.reduceat(low, heads), np.maximum.reduceat(high, heads)
    over = np.maximum(-low, high - sizes[:, ::-1]).max(1)
    total = np.add.reduceat(area, heads)
    doubtful[chosen] |= (over > OUTSIDE_PIXELS - ROUNDING) | (total < SMALL_AREA + ROUNDING)
    where[chosen, :2] = np.clip(low, 0, sizes[:, ::-1])
    where[chosen, 2:] = np.clip(high, 0, sizes[:, ::-1])
    areas[chosen] = total


def _add_runs(
    columns: Columns, where: Float[np.ndarray, "N 4"], areas: Float[np.ndarray, " N"], doubtful: Bool[np.ndarray, " N"]
) -> None:
    """Fill in the boxes and areas of run lengths."""
    for index in np.flatnonzero(columns.flags & (TEXT_RUNS | LISTED_RUNS)).tolist():
        runs = columns.runs[columns.run_starts[index] : columns.run_starts[index + 1]].tobytes()
        counts = read_counts(runs) if columns.flags[index] & TEXT_RUNS else np.frombuffer(runs, np.int64)
        height = int(columns.sizes[columns.owners[index], 0])
        ends = np.cumsum(counts)
        stop = ends[1::2]
        start = ends[0::2][: len(stop)]
        start, stop = start[stop > start], stop[stop > start]
        if not len(start):
            doubtful[index] = True
            continue
        (left, top), (right, bottom) = np.divmod(start, height), np.divmod(stop - 1, height)
        crosses = (left != right).any()  # a run that continues in the next column covers the first and the last row
        low, high = (0, height) if crosses else (int(top.min()), int(bottom.max()) + 1)
        where[index] = left[0], low, right[-1] + 1, high
        areas[index] = (stop - start).sum()
