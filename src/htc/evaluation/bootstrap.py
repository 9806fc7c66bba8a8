"""Confidence intervals of average precision by bootstrap: COCO's accumulation over images drawn with replacement.

The bootstrap (Efron) is paired: two sets of results are evaluated on the same draws, so that variation that both share
cancels in their difference. The intervals do not include the variation between trainings.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from htc.evaluation.coco import IouType, boundary_evaluation, evaluation_of, mean_of_defined
from htc.evaluation.comparison import Comparison, compare
from htc.evaluation.matching import matched_images

if TYPE_CHECKING:
    from faster_coco_eval.core.cocoeval import Params

DRAWS = 1000


@dataclass(frozen=True)
class Gain:
    """AP of one set of results, that of another on the same images (0..1), and the interval of the difference."""

    ap: float
    other: float
    low: float
    """Lower end of the 95 % bootstrap interval of the difference."""
    high: float

    @property
    def difference(self) -> float:
        """`ap` minus `other`."""
        return self.ap - self.other


@dataclass(frozen=True)
class ImageMatches:
    """Results matched with the ground truth image by image, from which AP can be computed for any choice of images."""

    settings: "Params"
    images: tuple[Any, ...]
    """COCO's evaluation of each (class, image); the images of one class follow each other."""
    count: int
    """Number of images."""

    def average_precision(self, draw: Int[np.ndarray, " _"] | None = None) -> float:
        """Compute COCO's AP over the images `draw` (indices 0 .. count-1, repeats allowed; None: each once); -1 if
        undefined.
        """
        from faster_coco_eval import faster_eval_api_cpp  # pyright: ignore[reportAttributeAccessIssue] - compiled

        chosen = range(self.count) if draw is None else draw.tolist()
        settings = copy.copy(self.settings)
        settings.imgIds = list(range(len(chosen)))
        starts = range(0, len(self.images), self.count)
        result = faster_eval_api_cpp.COCOevalAccumulate(
            settings, [self.images[start + image] for start in starts for image in chosen]
        )
        return mean_of_defined(np.asarray(result["precision"]))


def matches(
    kind: IouType, ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int
) -> ImageMatches:
    """Match COCO results with the ground-truth instances by boxes, masks or boundaries, over all sizes."""
    return matches_of(kind, compare(ground_truth, results, max_detections), max_detections)


def matches_of(kind: IouType, comparison: Comparison, max_detections: int) -> ImageMatches:
    """Do the same for results and annotations that are already in a `Comparison`."""
    if kind == "boundary":
        evaluation = boundary_evaluation(comparison, matched_images(comparison, max_detections), max_detections)
    else:
        evaluation = evaluation_of(kind, comparison, max_detections)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = (
        evaluation.params.areaRng[:1],
        evaluation.params.areaRngLbl[:1],
    )
    evaluation.separate_eval = True
    evaluation.evaluate()
    settings = copy.copy(evaluation.params)
    return ImageMatches(settings, tuple(evaluation._evalImgs_cpp), len(settings.imgIds))


def draws(images: int, count: int, seed: int) -> Int[np.ndarray, "_ _"]:
    """Draw `count` samples with replacement, each of as many indices as there are images."""
    return np.random.default_rng(seed).integers(0, images, (count, images))


def resampled(model: ImageMatches, drawn: Int[np.ndarray, "D _"]) -> Float[np.ndarray, " D"]:
    """Compute the AP of each draw."""
    return np.array([model.average_precision(draw) for draw in drawn])


def interval(differences: Float[np.ndarray, " _"], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval."""
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def gains(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    max_detections: int,
) -> dict[IouType, Gain]:
    """Compare box AP and, if both have masks, mask AP of two sets of COCO results; raises `DataError` as `compare`."""
    both = tuple(compare(ground_truth, each, max_detections) for each in (results, others))
    kinds: tuple[IouType, ...] = ("bbox", "segm") if all(each.with_masks for each in both) else ("bbox",)
    drawn = draws(len(ground_truth["images"]), DRAWS, seed=0)
    gain_of: dict[IouType, Gain] = {}
    for kind in kinds:
        one, other = (matches_of(kind, each, max_detections) for each in both)
        gain_of[kind] = Gain(
            one.average_precision(),
            other.average_precision(),
            *interval(resampled(one, drawn) - resampled(other, drawn)),
        )
    return gain_of
