"""Diagnostics of an evaluation: curves, boundary AP, score thresholds, calibration, confusion matrix, errors by kind,
worst images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from htc.evaluation.coco import (
    IouType,
    MetricValues,
    boundary_metrics,
    evaluated,
    mean_of_defined,
    metrics_from,
    recalls,
)
from htc.evaluation.comparison import Comparison
from htc.evaluation.errors import ErrorKind, at_least, errors_by_kind
from htc.evaluation.matching import Matched, confusion_matrix, matched_images
from htc.evaluation.operating import Calibration, OperatingPoint, calibration, judged, operating_points

if TYPE_CHECKING:
    from faster_coco_eval import COCOeval_faster

CURVES = (0.5, 0.75)
"""IoU thresholds of the precision-recall curves."""


@dataclass(frozen=True)
class Curves:
    """AP over IoU thresholds and precision over recall, for boxes or masks; -1 where undefined."""

    thresholds: tuple[float, ...]
    ap: dict[str, tuple[float, ...]]
    """AP at each threshold for instances of `all` sizes, `small`, `medium` and `large` (by area, as in COCO)."""
    precision: dict[float, tuple[float, ...]]
    """Mean precision over the classes at recalls 0, 0.01, ... 1, by IoU threshold."""
    recall: dict[str, float]
    """Average recalls under COCO's names."""


@dataclass(frozen=True)
class ImageErrors:
    """Per-image true positives, false positives and missed instances at the operating point."""

    image_id: int | str
    found: int
    """True positives: instances matched by a result."""
    wrong: int
    """False positives: results without a matching instance."""
    missed: int
    """False negatives: instances without a matching result."""

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 for an image without instances and results."""
        total = 2 * self.found + self.wrong + self.missed
        return 2 * self.found / total if total else 1.0


@dataclass(frozen=True)
class Diagnostics:
    """All diagnostics of an evaluation; results are matched by masks, or by boxes without masks."""

    by: IouType
    classes: tuple[str, ...]
    curves: dict[str, Curves]
    """By kind: `bbox`, `segm`."""
    boundary: dict[str, float] | None
    """The metrics of `segm` with min(mask IoU, boundary IoU) instead of mask IoU (Cheng et al. 2021)."""
    best: OperatingPoint
    """The operating point with the best F1 over all classes; it is used for confusion, counts and images."""
    best_by_class: dict[str, OperatingPoint]
    calibration: Calibration
    confusion: Int[np.ndarray, "K1 K1"]
    """See `confusion_matrix`."""
    errors: dict[str, ErrorKind]
    images: tuple[ImageErrors, ...]
    """Worst first."""
    matched: tuple[Matched, ...]
    """Results and instances of each image, in the order of `Comparison.image_ids`."""

    def content(self, most_images: int = 50) -> dict[str, Any]:
        """Return the diagnostics as a dictionary for a JSON file."""
        return {
            "matched_by": self.by,
            "curves": {kind: _curves_content(curves) for kind, curves in self.curves.items()},
            "boundary": self.boundary,
            "best_f1": {
                "all": self.best._asdict(),
                "per_class": {name: point._asdict() for name, point in self.best_by_class.items()},
            },
            "calibration": asdict(self.calibration),
            "confusion": {
                "score_threshold": self.best.threshold,
                "classes": [*self.classes, "background"],
                "matrix": self.confusion.tolist(),
            },
            "errors": {name: asdict(kind) for name, kind in self.errors.items()},
            "worst_pictures": [asdict(image) | {"f1": image.f1} for image in self.images[:most_images]],
        }


def diagnose(comparison: Comparison, max_detections: int = 100) -> tuple[MetricValues, Diagnostics]:
    """Compute the metrics and their diagnostics, with at most `max_detections` results for each image and class."""
    kinds: tuple[IouType, ...] = ("bbox", "segm") if comparison.with_masks else ("bbox",)
    evaluations: dict[IouType, COCOeval_faster] = {kind: evaluated(kind, comparison, max_detections) for kind in kinds}
    classes = tuple(name for _, name in comparison.categories)
    matched = tuple(matched_images(comparison, max_detections))
    results = judged(matched, len(classes))
    best, each = operating_points(results, classes)
    images = sorted(
        (image_errors(image, comparison, best.threshold) for image in matched),
        key=lambda one: (one.f1, -one.wrong - one.missed),
    )
    diagnostics = Diagnostics(
        by=kinds[-1],
        classes=classes,
        curves={kind: curves_of(evaluation) for kind, evaluation in evaluations.items()},
        boundary=boundary_metrics(comparison, matched, max_detections) if comparison.with_masks else None,
        best=best,
        best_by_class=each,
        calibration=calibration(results),
        confusion=confusion_matrix(matched, len(classes), best.threshold),
        errors=errors_by_kind(matched, len(classes), best.threshold),
        images=tuple(images),
        matched=matched,
    )
    return metrics_from(evaluations, comparison, max_detections), diagnostics


def curves_of(evaluation: "COCOeval_faster") -> Curves:
    """Compute the curves of a finished evaluation."""
    precision: Float[np.ndarray, "T R K A M"] = evaluation.eval["precision"]
    thresholds = tuple(round(float(iou), 2) for iou in evaluation.params.iouThrs)
    sizes = {name: index for index, name in enumerate(evaluation.params.areaRngLbl)}
    ap = {
        name: tuple(mean_of_defined(precision[t, :, :, index, -1]) for t in range(len(thresholds)))
        for name, index in sizes.items()
    }
    at = {iou: precision[thresholds.index(iou), :, :, 0, -1] for iou in CURVES}
    curves = {iou: tuple(mean_of_defined(row) for row in values) for iou, values in at.items()}
    return Curves(thresholds, ap, curves, recalls(evaluation))


def image_errors(image: Matched, comparison: Comparison, threshold: float) -> ImageErrors:
    """Count the true positives, false positives and misses of one image, among results of at least `threshold`."""
    cut = at_least(image, threshold)
    matched, ignored = int((cut.match >= 0).sum()), int(cut.ignored.sum())
    objects = int((~cut.crowd).sum())
    return ImageErrors(
        comparison.image_ids[image.image], matched, len(cut.scores) - matched - ignored, objects - matched
    )


def _curves_content(curves: Curves) -> dict[str, Any]:
    by_threshold = {name: _named(curves.thresholds, values) for name, values in curves.ap.items()}
    return {
        "ap_by_iou": by_threshold,
        "precision": {f"{iou:.2f}": list(values) for iou, values in curves.precision.items()},
        "recall": curves.recall,
    }


def _named(thresholds: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    return {f"{iou:.2f}": value for iou, value in zip(thresholds, values, strict=True)}
