"""All metrics of one set of predictions, from a predictor or a result file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from htc.data.coco import read_image_list
from htc.data.dataset import Dataset
from htc.errors import DataError
from htc.evaluation.bootstrap import gains
from htc.evaluation.coco import MetricValues, coco_metrics, metrics_of
from htc.evaluation.comparison import Comparison, check_masks, checked_results, compare
from htc.evaluation.diagnostics import Diagnostics, diagnose
from htc.evaluation.files import read_images, read_results
from htc.evaluation.maps import MapRequest, evaluating_maps
from htc.evaluation.report import report_page
from htc.evaluation.run import detections_that_count, evaluate_stages, stages_name, stream_results
from htc.inference.outputs import results_file
from htc.inference.predictor import ImagePredictor
from htc.inference.stages import StageSubset, mask_stages_of
from htc.progress import NamedProgress
from htc.visual.page import write_page

Results = Sequence[Mapping[str, Any]]
NO_MAPS = MapRequest()


@dataclass(frozen=True)
class EvaluationData:
    """Annotations and images, checked before a model is loaded."""

    annotations: Path
    folder: Path
    ground_truth: Mapping[str, Any]
    dataset: Dataset


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of predictions, 0..1 (-1: undefined)."""

    ground_truth: Mapping[str, Any]
    results: Results
    max_detections: int
    """Maximum detections of an image and class that are evaluated."""
    comparison: Comparison
    metrics: MetricValues
    diagnostics: Diagnostics | None = None
    against: Mapping[str, Mapping[str, float]] | None = None
    """By kind: AP of the other results, the difference, and its 95 % interval."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Further metrics: `members` or `stages` by name; `semantic`, `panoptic`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics JSON of `htc evaluate --json`."""
        content: dict[str, Any] = dict(self.metrics)
        if self.diagnostics is not None:
            content["diagnostics"] = self.diagnostics.content()
        if self.against is not None:
            content["against"] = self.against
        return content | dict(self.beside)

    def compared_with(self, others: Results) -> "Evaluation":
        """Return a copy with the difference in AP to other results of the same images; raises `DataError`."""
        of_kinds = gains(self.ground_truth, self.results, others, self.max_detections)
        against = {
            kind: {"AP": gain.other, "difference": gain.difference, "low": gain.low, "high": gain.high}
            for kind, gain in of_kinds.items()
        }
        return replace(self, against=against)

    def write_page(self, path: Path, title: str, images: Mapping[int | str, Path] | None = None) -> None:
        """Write the diagnostics as one HTML page; without `images` (paths by id), it contains no images."""
        assert self.diagnostics is not None, "evaluate with diagnostics=True"
        write_page(path, report_page(title, self.metrics, self.diagnostics, self.comparison, images))


def images_folder(annotations: Path) -> Path:
    """Return the folder of the images in COCO's layout (annotations/instances_val2017.json -> val2017), else the folder
    of the annotation file.
    """
    sibling = annotations.parent.parent / annotations.stem.rsplit("_", 1)[-1]
    return sibling if sibling.is_dir() else annotations.parent


def read_other_results(ground_truth: Mapping[str, Any], path: Path) -> Results:
    """Read a result file to compare with; raises `DataError` if its images or categories are not in the annotations."""
    try:
        return read_checked_results(ground_truth, path)
    except DataError as error:
        raise DataError(f"--against {path}: {error}") from error


def read_checked_results(ground_truth: Mapping[str, Any], path: Path) -> Results:
    """Read a result file; raises `DataError` for a result that cannot be used or is not of these annotations."""
    results = checked_results(ground_truth, read_results(path))
    check_masks(ground_truth, results)
    return results


def score_results(
    ground_truth: Mapping[str, Any], results: Results, *, max_detections: int = 100, diagnostics: bool = False
) -> Evaluation:
    """Evaluate COCO results against annotations, optionally with diagnostics; raises `DataError`."""
    comparison = compare(ground_truth, results, max_detections)
    if not diagnostics:
        return Evaluation(ground_truth, results, max_detections, comparison, metrics_of(comparison, max_detections))
    metrics, details = diagnose(comparison, max_detections)
    return Evaluation(ground_truth, results, max_detections, comparison, metrics, details)


def evaluate_predictor(
    predictor: ImagePredictor[Any],
    data: EvaluationData,
    *,
    members: Mapping[str, ImagePredictor[Any]] | None = None,
    stages: Sequence[StageSubset] = (),
    maps: MapRequest = NO_MAPS,
    diagnostics: bool = False,
    save_results: Path | None = None,
    max_detections: int | None = None,
    batch_size: int = 1,
    workers: int = 0,
    progress: NamedProgress | None = None,
) -> Evaluation:
    """Evaluate a model on annotated images, in one pass.

    Each of the `members` (by name) and each of the mask `stages` is also evaluated separately; stages and `maps`
    exclude each other. Results are written to `save_results` before any metric is computed. Raises `DataError`,
    `ConfigError` and `OutputError`.
    """
    limit = detections_that_count(predictor, max_detections)
    beside: dict[str, Any] = {}
    if members:
        beside["members"] = {
            name: _member_metrics(member, data, limit, batch_size, workers, _named(progress, name))
            for name, member in members.items()
        }
    report = _named(progress, "")
    with evaluating_maps(maps, predictor, data.dataset) as evaluated_maps:
        if stages:
            own = mask_stages_of(predictor)
            subsets = list(dict.fromkeys([*stages, own]))
            each, by_stage = evaluate_stages(
                predictor, data.annotations, data.folder, subsets, limit, report, batch_size, workers
            )
            results = by_stage[own]
            beside["stages"] = {stages_name(subset): each[subset] for subset in stages}
        else:
            results = list(
                stream_results(
                    predictor,
                    data.dataset,
                    data.ground_truth,
                    limit,
                    report,
                    batch_size,
                    workers,
                    evaluated_maps.on_detections,
                )
            )
    if save_results is not None:
        with results_file(save_results) as file:
            file.add(results)
    scored = score_results(data.ground_truth, results, max_detections=limit, diagnostics=diagnostics)
    return replace(scored, beside=beside | evaluated_maps.metrics())


def write_predictions(
    predictor: ImagePredictor[Any],
    annotations: Path,
    images: Path | None,
    path: Path,
    *,
    batch_size: int = 1,
    workers: int = 0,
    progress: NamedProgress | None = None,
) -> int:
    """Write the COCO results of images without annotations while predicting; return their number. Raises `DataError`
    and `OutputError`.
    """
    dataset = read_image_list(annotations, images or images_folder(annotations))
    ground_truth = {**read_images(annotations), "annotations": []}
    limit = detections_that_count(predictor, None)
    with results_file(path) as file:
        for result in stream_results(
            predictor, dataset, ground_truth, limit, _named(progress, ""), batch_size, workers
        ):
            file.add([{key: value for key, value in result.items() if key != "category_name"}])
    return file.count


def member_names(models: Sequence[str | Path | ImagePredictor[Any]]) -> list[str]:
    """Name the members by folder, or by whole path if folders are ambiguous; equal names get a number.

    A predictor is named by the preset of its configuration.
    """
    whole = [str(model) if isinstance(model, str | Path) else model.config.preset for model in models]
    names = [Path(name).name for name in whole]
    if len(set(names)) < len(names):
        names = whole
    return [name if names.count(name) == 1 else f"{name} ({row + 1})" for row, name in enumerate(names)]


def _member_metrics(
    member: ImagePredictor[Any],
    data: EvaluationData,
    limit: int,
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> MetricValues:
    """Compute the metrics of one member, with the views of the ensemble."""
    results = list(stream_results(member, data.dataset, data.ground_truth, limit, progress, batch_size, workers))
    return coco_metrics(data.ground_truth, results, limit)


def _named(progress: NamedProgress | None, name: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, name)

    return report
