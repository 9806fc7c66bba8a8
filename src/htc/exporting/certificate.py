"""The certificate of an exported file: what it computes in its own runtime, compared with the model it was made from.

Both predict the same prepared images. Detections are matched one to one; differences of scores, boxes and masks, the
time of an image and the memory are recorded. Rounding decides which of two nearly equal boxes survives suppression, and
which is the last of the detections, so a small share may differ by more than the tolerance.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from htc.data.images import read_image
from htc.evaluation.run import evaluate_model
from htc.inference.predictor import ImagePredictor
from htc.ops.boxes import iou
from htc.results import Detections

SAME_BOX = 0.9
"""IoU from which two detections of a class are the same one."""


@dataclass(frozen=True)
class Tolerance:
    """Largest differences of an exact file. One detection in 200 may differ by more, for a near tie."""

    scores: float = 1e-3
    boxes: float = 0.1
    """Pixels of the network input."""
    masks: float = 0.02
    """Probability."""
    share: float = 0.005
    """Share of the detections that may differ by more, or have no match."""


EXACT = Tolerance()


@dataclass(frozen=True)
class ImageDifferences:
    """Comparison of the detections in one image."""

    image: str
    size: tuple[int, int]
    """(height, width) of the original image."""
    input_size: tuple[int, int]
    """(height, width) of the network input, padded."""
    expected: int
    """Detections of the model."""
    found: int
    """Detections of the file."""
    matched: int
    differing: int
    """Detections of either side without a match, except those that only the limit of a near tie leaves out, and pairs
    that differ by more than the tolerance.
    """
    scores: float
    """Largest difference of matched detections."""
    boxes: float
    """Pixels of the network input."""
    masks: float
    """Probability, at any cell of any mask."""


@dataclass(frozen=True)
class Certificate:
    """Result of the comparison of a file with its model; `to_dict` is the JSON file beside the exported one."""

    file: str
    runtime: str
    """Name and version."""
    precision: str
    weights_sha256: str
    version: str
    """Version of this library."""
    preset: str
    batch: int | None
    """Images of a call; None: any number."""
    size: tuple[int, int] | None
    """(height, width) of the network input; None: any multiple of 32."""
    tolerance: Tolerance
    images: tuple[ImageDifferences, ...]
    latency_ms: Mapping[str, float]
    """Median of an image: {"model", "file"}."""
    threads: int
    memory_mib: Mapping[str, float] | None
    """Weights and the largest image: {"model", "file"}; None where the system does not report it."""
    ap: Mapping[str, Mapping[str, float]] | None = None
    """{"model": {"bbox", "segm"}, "file": ...}, 0..1; None without annotations."""
    notes: tuple[str, ...] = field(default=())

    @property
    def expected(self) -> int:
        """Detections of the model in all images."""
        return sum(image.expected for image in self.images)

    @property
    def matched(self) -> int:
        """Detections with a match in all images."""
        return sum(image.matched for image in self.images)

    @property
    def differing(self) -> float:
        """Share of the detections that differ by more than the tolerance."""
        return sum(image.differing for image in self.images) / max(self.expected, 1)

    @property
    def scores(self) -> float:
        """Largest difference of a score."""
        return max((image.scores for image in self.images), default=0.0)

    @property
    def boxes(self) -> float:
        """Largest difference of a coordinate, in pixels of the network input."""
        return max((image.boxes for image in self.images), default=0.0)

    @property
    def masks(self) -> float:
        """Largest difference of a mask probability."""
        return max((image.masks for image in self.images), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether the file computes what the model does."""
        return self.differing <= self.tolerance.share

    def to_dict(self) -> dict[str, Any]:
        """All values, and the totals, as JSON."""
        totals = {
            name: getattr(self, name) for name in ("expected", "matched", "differing", "scores", "boxes", "masks")
        }
        return {**asdict(self), "totals": totals, "passed": self.passed}

    def lines(self) -> list[str]:
        """The summary that `htc export` prints."""
        sizes = ", ".join(dict.fromkeys(f"{image.input_size[0]}x{image.input_size[1]}" for image in self.images))
        times = self.latency_ms
        lines = [
            f"{self.runtime}: {len(self.images)} images, network inputs {sizes}",
            f"detections: {self.matched} of {self.expected} matched, {100 * self.differing:.2f} % beyond the tolerance",
            f"largest differences: scores {self.scores:.1e}, boxes {self.boxes:.1e} pixels, masks {self.masks:.1e}",
            f"time of an image: model {times['model']:.0f} ms, file {times['file']:.0f} ms ({self.threads} threads)",
        ]
        if self.memory_mib is not None:
            memory = self.memory_mib
            lines.append(f"memory: model {memory['model']:.0f} MiB, file {memory['file']:.0f} MiB")
        if self.ap is not None:
            lines += [
                f"{kind} AP: model {100 * self.ap['model'][kind]:.2f}, file {100 * self.ap['file'][kind]:.2f}"
                for kind in self.ap["model"]
            ]
        return [*lines, *self.notes]


def compare_detections(
    expected: Detections, found: Detections, scale: float, tolerance: Tolerance = EXACT, capacity: int | None = None
) -> dict[str, Any]:
    """Match the detections of one image and return the last six fields of `ImageDifferences`.

    `scale` converts original pixels to those of the network input. Of images with `capacity` detections, the last ones
    are a near tie with those that were left out.
    """
    pairs = matching(expected, found)
    first, second = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    scores = np.abs(expected.scores[first] - found.scores[second])
    boxes = np.abs(expected.boxes[first] - found.boxes[second]).max(axis=1, initial=0) * scale
    grids = expected.masks.probabilities[first] - found.masks.probabilities[second]
    masks = np.abs(grids).max(axis=(1, 2), initial=0)
    beyond = (scores > tolerance.scores) | (boxes > tolerance.boxes) | (masks > tolerance.masks)
    alone = _alone(expected, first, tolerance, capacity) + _alone(found, second, tolerance, capacity)
    return {
        "expected": len(expected),
        "found": len(found),
        "matched": len(pairs),
        "differing": int(beyond.sum()) + alone,
        **{
            name: float(values.max(initial=0))
            for name, values in (("scores", scores), ("boxes", boxes), ("masks", masks))
        },
    }


def matching(expected: Detections, found: Detections) -> list[tuple[int, int]]:
    """Pairs (row of `expected`, row of `found`) of one class with an IoU of at least `SAME_BOX`, nearest first."""
    if not len(expected) or not len(found):
        return []
    overlap = iou(torch.from_numpy(expected.boxes), torch.from_numpy(found.boxes)).numpy()
    overlap[expected.labels[:, None] != found.labels[None]] = 0
    apart = np.abs(expected.scores[:, None] - found.scores[None])
    rows, columns = np.nonzero(overlap >= SAME_BOX)
    order = np.lexsort((apart[rows, columns], np.round(-overlap[rows, columns], 3)))
    pairs: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = (set(), set())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken[0] and column not in taken[1]:
            pairs.append((row, column))
            taken[0].add(row)
            taken[1].add(column)
    return pairs


def _alone(detections: Detections, matched: np.ndarray, tolerance: Tolerance, capacity: int | None) -> int:
    """Number of detections without a match whose score is not the last one's, up to the tolerance."""
    rest = np.setdiff1d(np.arange(len(detections)), matched)
    full = capacity is not None and len(detections) >= capacity
    last = detections.scores.min(initial=1.0) if full else 0.0
    return int((detections.scores[rest] > last + tolerance.scores).sum())


@dataclass(frozen=True)
class Compared:
    """One image with the detections of both sides and the seconds of each."""

    differences: ImageDifferences
    seconds: tuple[float, float]


def compare_on(
    model: ImagePredictor[Any], file: ImagePredictor[Any], images: Sequence[Path], tolerance: Tolerance = EXACT
) -> list[Compared]:
    """Predict each image with the model and with the file, one after the other, and compare."""
    return [_compare(model, file, path, tolerance) for path in images]


def _compare(model: ImagePredictor[Any], file: ImagePredictor[Any], path: Path, tolerance: Tolerance) -> Compared:
    pixels = read_image(path)
    original = (pixels.shape[0], pixels.shape[1])
    preparation = model.preparation()
    size = preparation.size(original)
    (expected, one), (found, other) = (_timed(predictor, pixels) for predictor in (model, file))
    differences = compare_detections(
        expected,
        found,
        max(size[0] / original[0], size[1] / original[1]),
        tolerance,
        model.config.inference.max_detections,
    )
    padded = preparation.padded_size(size)
    return Compared(ImageDifferences(path.name, original, padded, **differences), (one, other))


def _timed(predictor: ImagePredictor[Any], pixels: np.ndarray) -> tuple[Detections, float]:
    """Predict one image with all detections that the configuration allows. -> detections, seconds without resizing"""
    preparation = predictor.preparation()
    prepared = preparation.batch([preparation.image(pixels)])
    start = time.perf_counter()
    detections = predictor.detect(prepared, [(pixels.shape[0], pixels.shape[1])])[0]
    return detections, time.perf_counter() - start


def latency(compared: Sequence[Compared]) -> dict[str, float]:
    """Median milliseconds of an image: {"model", "file"}."""
    return {name: 1000 * median(one.seconds[side] for one in compared) for side, name in enumerate(("model", "file"))}


def average_precisions(
    model: ImagePredictor[Any], file: ImagePredictor[Any], annotations: Path, images: Path
) -> dict[str, dict[str, float]]:
    """AP of both on annotated images."""
    found = {}
    for name, predictor in (("model", model), ("file", file)):
        metrics, _ = evaluate_model(predictor, annotations, images)
        found[name] = {kind: metrics[kind]["AP"] for kind in ("bbox", "segm") if kind in metrics}
    return found


PART_TOLERANCE = 1e-2
"""Largest difference of a part's output, relative to the largest value of that output."""


def first_differing(
    expected: Mapping[str, Float[np.ndarray, "..."]], found: Mapping[str, Float[np.ndarray, "..."]]
) -> tuple[str, str] | None:
    """The first output of a part that differs, with a description; None if all agree.

    Outputs are compared in the order of `expected`. Proposals may come in another order, and a few may differ, so
    outputs of RoIs are compared with the nearest box of the other side.
    """
    rows = None
    for name, values in expected.items():
        other = found[name]
        if not np.isfinite(other).all():
            return name, f"{int((~np.isfinite(other)).sum())} values are not finite"
        if name == "RPN.boxes":
            distance = np.abs(values[:, :, None] - other[:, None]).max(-1)
            rows = distance.argmin(2)
            apart = float(np.quantile(distance.min(2), 0.97))
            if apart > 1:
                return name, f"3 % of the proposals have none within {apart:.1f} pixels"
            continue
        if rows is not None and values.ndim >= 2 and values.shape[1] == rows.shape[1]:
            other = np.take_along_axis(other, rows.reshape(*rows.shape, *[1] * (values.ndim - 2)), 1)
        scale = float(np.abs(values).max(initial=1e-6))
        apart = float(np.quantile(np.abs(values - other), 0.97)) / scale
        if apart > PART_TOLERANCE:
            return name, f"3 % of the values differ by more than {100 * apart:.1f} % of the largest"
    return None
