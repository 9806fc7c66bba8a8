"""All metrics of one set of predictions in one object, of a predictor or of a result file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from htc.data.coco import read_coco, read_image_list
from htc.data.dataset import Dataset
from htc.errors import DataError
from htc.evaluation.bootstrap import gains
from htc.evaluation.coco import MetricValues, coco_metrics, metrics_of
from htc.evaluation.comparison import Comparison, check_results, compare
from htc.evaluation.diagnostics import Diagnostics, diagnose
from htc.evaluation.files import read_annotations, read_images, read_results
from htc.evaluation.maps import MapRequest, measured_maps
from htc.evaluation.report import report_page
from htc.evaluation.run import detections_that_count, measure_stages, stages_name, stream_results
from htc.inference.outputs import results_file
from htc.inference.predictor import ImagePredictor
from htc.inference.stages import StageSubset, mask_stages_of
from htc.progress import NamedProgress
from htc.visual.page import write_page

Results = Sequence[Mapping[str, Any]]
NO_MAPS_WANTED = MapRequest()


@dataclass(frozen=True)
class EvaluationData:
    """Annotated images, checked before a model is loaded."""

    annotations: Path
    folder: Path
    truth: Mapping[str, Any]
    dataset: Dataset


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of predictions, 0..1 (-1: undefined)."""

    truth: Mapping[str, Any]
    results: Results
    max_detections: int
    """Detections of an image and class that count."""
    comparison: Comparison
    metrics: MetricValues
    diagnostics: Diagnostics | None = None
    against: Mapping[str, Mapping[str, float]] | None = None
    """By kind: AP of other results, the difference, and its 95 % interval."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """`members` or `stages` by name; `semantic`, `panoptic`."""

    def to_dict(self) -> dict[str, Any]:
        """The metrics JSON of `htc evaluate --json`."""
        found: dict[str, Any] = dict(self.metrics)
        if self.diagnostics is not None:
            found["diagnostics"] = self.diagnostics.content()
        if self.against is not None:
            found["against"] = self.against
        return found | dict(self.beside)

    def compared_with(self, others: Results) -> "Evaluation":
        """With the difference in AP to other results of the same images; raises `DataError` as `compare` does."""
        found = gains(self.truth, self.results, others, self.max_detections)
        against = {
            kind: {"AP": gain.other, "difference": gain.difference, "low": gain.low, "high": gain.high}
            for kind, gain in found.items()
        }
        return replace(self, against=against)

    def write_page(self, path: Path, title: str, images: Mapping[int | str, Path] | None = None) -> None:
        """Write the diagnostics as one HTML page; without `images` (paths by id) it draws none."""
        assert self.diagnostics is not None, "evaluate with diagnostics=True"
        write_page(path, report_page(title, self.metrics, self.diagnostics, self.comparison, images))


def images_folder(annotations: Path) -> Path:
    """The folder of the images by COCO's layout: annotations/instances_val2017.json -> val2017; else the annotations'
    own folder.
    """
    sibling = annotations.parent.parent / annotations.stem.rsplit("_", 1)[-1]
    return sibling if sibling.is_dir() else annotations.parent


def read_evaluation_data(annotations: Path, images: Path | None = None) -> EvaluationData:
    """Read the annotations and the list of images; raises `DataError`."""
    folder = images or images_folder(annotations)
    return EvaluationData(annotations, folder, read_annotations(annotations), read_coco(annotations, folder))


def read_other_results(truth: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """A result file to compare with; raises `DataError` if it is not of these images and categories."""
    others = read_results(path)
    try:
        check_results(truth, others)
    except DataError as error:
        raise DataError(f"--against {path}: {error}") from error
    return others


def score_results(
    truth: Mapping[str, Any], results: Results, *, max_detections: int = 100, diagnostics: bool = False
) -> Evaluation:
    """Evaluate COCO results against annotations, with diagnostics where wanted; raises `DataError`."""
    comparison = compare(truth, results)
    if not diagnostics:
        return Evaluation(truth, results, max_detections, comparison, metrics_of(comparison, max_detections))
    metrics, found = diagnose(comparison, max_detections)
    return Evaluation(truth, results, max_detections, comparison, metrics, found)


def evaluate_predictor(
    predictor: ImagePredictor[Any],
    data: EvaluationData,
    *,
    members: Mapping[str, ImagePredictor[Any]] | None = None,
    stages: Sequence[StageSubset] = (),
    maps: MapRequest = NO_MAPS_WANTED,
    diagnostics: bool = False,
    save_results: Path | None = None,
    max_detections: int | None = None,
    batch_size: int = 1,
    workers: int = 0,
    progress: NamedProgress | None = None,
) -> Evaluation:
    """Evaluate a model on annotated images, in one pass.

    `members` (by name) are evaluated each by itself too, and so are the mask `stages`; stages and `maps` exclude each
    other. Results are written to `save_results` before any metric is computed. Raises `DataError`, `ConfigError` and
    `OutputError`.
    """
    most = detections_that_count(predictor, max_detections)
    beside: dict[str, Any] = {}
    if members:
        beside["members"] = {
            name: _metrics_alone(member, data, most, batch_size, workers, _named(progress, name))
            for name, member in members.items()
        }
    tell = _named(progress, "")
    with measured_maps(maps, predictor, data.dataset) as measured:
        if stages:
            own = mask_stages_of(predictor)
            wanted = list(dict.fromkeys([*stages, own]))
            each, by_stage = measure_stages(
                predictor, data.annotations, data.folder, wanted, most, tell, batch_size, workers
            )
            results = by_stage[own]
            beside["stages"] = {stages_name(subset): each[subset] for subset in stages}
        else:
            results = list(
                stream_results(predictor, data.dataset, data.truth, most, tell, batch_size, workers, measured.look)
            )
    if save_results is not None:
        with results_file(save_results) as file:
            file.add(results)
    scored = score_results(data.truth, results, max_detections=most, diagnostics=diagnostics)
    return replace(scored, beside=beside | measured.numbers())


def write_predictions(
    predictor: ImagePredictor[Any],
    annotations: Path,
    images: Path | None,
    path: Path,
    *,
    batch_size: int = 1,
    progress: NamedProgress | None = None,
) -> int:
    """Write the COCO results of images without annotations, as they come; returns how many. Raises `DataError` and
    `OutputError`.
    """
    dataset = read_image_list(annotations, images or images_folder(annotations))
    truth = {**read_images(annotations), "annotations": []}
    most = detections_that_count(predictor, None)
    with results_file(path) as file:
        for result in stream_results(predictor, dataset, truth, most, _named(progress, ""), batch_size):
            file.add([{key: value for key, value in result.items() if key != "category_name"}])
    return file.count


def member_names(models: Sequence[str | Path | ImagePredictor[Any]]) -> list[str]:
    """Folder names, or whole paths where those are ambiguous; a model that is named twice is numbered.

    Of a predictor, the preset of its configuration.
    """
    whole = [str(model) if isinstance(model, str | Path) else model.config.preset for model in models]
    names = [Path(name).name for name in whole]
    if len(set(names)) < len(names):
        names = whole
    return [name if names.count(name) == 1 else f"{name} ({row + 1})" for row, name in enumerate(names)]


def _metrics_alone(
    member: ImagePredictor[Any],
    data: EvaluationData,
    most: int,
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> MetricValues:
    """The metrics of one member, in the views of the ensemble."""
    results = list(stream_results(member, data.dataset, data.truth, most, progress, batch_size, workers))
    return coco_metrics(data.truth, results, most)


def _named(progress: NamedProgress | None, name: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, name)

    return tell
