"""How far average precision moves with the choice of images: COCO's own accumulation over images drawn with
replacement.

Efron's bootstrap over images, paired: two sets of results see the same draws, so that what the images have in
common cancels in their difference. It says nothing of the spread between trainings.
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
    """AP of one set of results minus that of another on the same images, 0..1."""

    ap: float
    other: float
    low: float
    """The 95 % interval of the difference over the choice of images."""
    high: float

    @property
    def difference(self) -> float:
        """ap - other"""
        return self.ap - self.other


@dataclass(frozen=True)
class ImageMatches:
    """What was found on each image and whether it is right, ready to be accumulated over any choice of images."""

    settings: "Params"
    images: tuple[Any, ...]
    """COCO's evaluation of each (class, image), the images of one class in a row."""
    count: int
    """Images."""

    def average_precision(self, draw: Int[np.ndarray, " _"] | None = None) -> float:
        """COCO's AP over the images `draw` (numbers 0 .. count-1, repeats allowed; None: each once); -1 where
        nothing is defined.
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
    kind: IouType, truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int
) -> ImageMatches:
    """Matches COCO results with the annotations' objects by boxes, masks or boundaries, image by image, objects
    of all sizes.
    """
    return matches_of(kind, compare(truth, results), max_detections)


def matches_of(kind: IouType, comparison: Comparison, max_detections: int) -> ImageMatches:
    """The same of results that are set against the annotations already."""
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
    """`count` draws of as many images as there are."""
    return np.random.default_rng(seed).integers(0, images, (count, images))


def resampled(model: ImageMatches, drawn: Int[np.ndarray, "D _"]) -> Float[np.ndarray, " D"]:
    """AP of each draw."""
    return np.array([model.average_precision(draw) for draw in drawn])


def interval(differences: Float[np.ndarray, " _"], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval."""
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def gains(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    max_detections: int,
) -> dict[IouType, Gain]:
    """Box and, where both have masks, mask AP of COCO results against others; raises `DataError` as `compare` does."""
    both = compare(truth, results), compare(truth, others)
    kinds: tuple[IouType, ...] = ("bbox", "segm") if all(each.with_masks for each in both) else ("bbox",)
    drawn = draws(len(truth["images"]), DRAWS, seed=0)
    found: dict[IouType, Gain] = {}
    for kind in kinds:
        one, other = (matches_of(kind, each, max_detections) for each in both)
        found[kind] = Gain(
            one.average_precision(),
            other.average_precision(),
            *interval(resampled(one, drawn) - resampled(other, drawn)),
        )
    return found
