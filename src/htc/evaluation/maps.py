"""Evaluation of semantic maps (mean IoU) and panoptic maps (PQ), in the same pass over the images as the instances."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from htc.config import Config
from htc.data.dataset import Dataset, ImageRecord
from htc.data.ground_truth import annotated
from htc.data.panoptic import Category, PanopticFile, read_panoptic
from htc.data.semantic_maps import IGNORE, MapSources, least_classes, semantic_class_names, with_semantic_maps
from htc.errors import ConfigError
from htc.evaluation.panoptic import PanopticQuality, PanopticWriter, panoptic_writer
from htc.inference.panoptic import merge, stuff_labels
from htc.inference.predictor import ImagePredictor
from htc.results import Detections


class SemanticCounts:
    """Pixel counts over images, [ground-truth class, predicted class]; pixels of class 255 are ignored."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, ground_truth: UInt8[np.ndarray, "H W"], predicted: UInt8[np.ndarray, "H W"]) -> None:
        """Add one image."""
        labelled = ground_truth != IGNORE
        classes = len(self.counts)
        pairs = ground_truth[labelled].astype(np.int64) * classes + predicted[labelled]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def metrics(self, names: Mapping[int, str]) -> dict[str, Any]:
        """Compute mIoU over the classes in the ground truth, the pixel accuracy and the IoU of each class; 0..1, -1 if
        undefined.
        """
        right, annotated = np.diag(self.counts), self.counts.sum(1)
        union = annotated + self.counts.sum(0) - right
        occurs = np.flatnonzero(annotated)
        iou = right / np.maximum(union, 1)
        total = annotated.sum()
        return {
            "mIoU": float(iou[occurs].mean()) if len(occurs) else -1.0,
            "pixel_accuracy": float(right.sum() / total) if total else -1.0,
            "per_class": {names.get(int(label), str(label)): float(iou[label]) for label in occurs},
        }


def semantic_names(config: Config) -> dict[int, str]:
    """Return the names of the labels of maps derived from the instances: background, then the classes."""
    return {0: "background", **dict(enumerate(config.classes, start=1))}


@dataclass
class SemanticEvaluation:
    """mIoU against map files, with labels as in training, or against maps derived from the annotated instances
    (`auto`).
    """

    predictor: ImagePredictor[Any]
    dataset: Dataset
    maps: MapSources | Literal["auto"]
    counts: SemanticCounts = field(init=False)

    def __post_init__(self) -> None:
        branch = self.predictor.config.semantic
        if branch is None:
            raise ConfigError("--semantic: this model has no semantic branch")
        classes = len(self.predictor.config.classes)
        if self.maps != "auto":
            self.dataset = with_semantic_maps(self.dataset, self.maps, self.predictor.config.classes)
            _check_classes(branch.classes, least_classes(self.dataset), exact=self.maps.folder is None)
        elif branch.classes <= classes:
            raise ConfigError(
                f"--semantic auto: the semantic branch has {branch.classes} classes, maps derived from instances need "
                f"{classes + 1}; set --semantic to a folder of maps"
            )
        self.counts = SemanticCounts(branch.classes)

    def add(self, record: ImageRecord, detections: Detections) -> None:
        """Add one image. Raises `DataError` if its PNG cannot be used."""
        assert detections.semantic is not None
        ground_truth = annotated(record, len(self.counts.counts), self.dataset.semantic_maps).semantic
        assert ground_truth is not None
        self.counts.add(
            self._names()[ground_truth] if self.maps == "auto" else ground_truth, detections.semantic.labels()
        )

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of `SemanticCounts.metrics`."""
        return self.counts.metrics(
            semantic_names(self.predictor.config) if self.maps == "auto" else semantic_class_names(self.dataset)
        )

    def _names(self) -> np.ndarray:
        """Map the annotations' labels to the model's by name, since their order may differ."""
        labels = np.full(256, IGNORE, np.uint8)
        labels[0] = 0
        for label, name in enumerate(self.dataset.classes):
            if name in self.predictor.config.classes:
                labels[label + 1] = self.predictor.config.classes.index(name) + 1
        return labels


def _check_classes(branch: int, needed: int, *, exact: bool) -> None:
    """Compare the branch's classes with those of the maps. A branch trained on panoptic annotations has exactly their
    classes; a folder of maps may have more classes than occur in this part of the dataset.
    """
    if branch < needed or (exact and branch != needed):
        raise ConfigError(
            f"--semantic: the model's branch has {branch} classes, these maps need {needed}; use maps of the same kind "
            f"as in its training, or auto"
        )


@dataclass
class PanopticEvaluation:
    """PQ against COCO's panoptic annotations (if `ground_truth` is given), and map files (if `writer` is given)."""

    predictor: ImagePredictor[Any]
    dataset: Dataset
    ground_truth: PanopticFile | None
    writer: PanopticWriter | None
    counts: PanopticQuality = field(init=False)

    def __post_init__(self) -> None:
        categories = {one.id: one for one in panoptic_categories(self.dataset, self.ground_truth)}
        self.counts = PanopticQuality(categories)
        self._things = {
            one.name: one.id for one in categories.values() if one.thing and one.name in self.predictor.config.classes
        }
        self._stuff = stuff_labels(self.predictor.config, {id: not one.thing for id, one in categories.items()})

    def add(self, record: ImageRecord, detections: Detections) -> None:
        """Merge instances and semantic map of one image, then evaluate and write the result."""
        merged = merge(detections, self._things, self._stuff)
        if self.ground_truth is not None:
            self.counts.add(self.ground_truth.read(record.id, (record.height, record.width)), merged)
        if self.writer is not None:
            self.writer.add(record.id, record.path.stem, merged)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of `PanopticQuality.metrics`."""
        return self.counts.metrics()


def panoptic_categories(dataset: Dataset, ground_truth: PanopticFile | None) -> Sequence[Category]:
    """Return the categories of the panoptic annotations, else the instance classes, all of which are things."""
    if ground_truth is not None:
        return list(ground_truth.categories.values())
    return [Category(id, name, True) for id, name in zip(dataset.category_ids, dataset.classes, strict=True)]


@dataclass(frozen=True)
class MapRequest:
    """The semantic and panoptic maps that an evaluation evaluates or writes."""

    semantic: Literal["auto"] | MapSources | None = None
    panoptic_json: Path | None = None
    panoptic_dir: Path | None = None
    """Folder of the PNGs of `panoptic_json`; None: the folder beside it with its name."""
    save: Path | None = None
    """Folder for the merged maps."""

    @property
    def is_any(self) -> bool:
        """Whether any map is evaluated or written."""
        return (self.semantic, self.panoptic_json, self.save) != (None, None, None)


@dataclass
class MapEvaluations:
    """The map evaluations of one run, by the key of their metrics."""

    dataset: Dataset
    evaluations: dict[str, SemanticEvaluation | PanopticEvaluation]
    panoptic_truth: bool

    @property
    def on_detections(self) -> Callable[[int | str, Detections], None] | None:
        """Function that adds the detections of an image to every evaluation; None without evaluations."""
        if not self.evaluations:
            return None
        records = {record.id: record for record in self.dataset.images}

        def add(image_id: int | str, detections: Detections) -> None:
            for evaluation in self.evaluations.values():
                evaluation.add(records[image_id], detections)

        return add

    def metrics(self) -> dict[str, Any]:
        """Return the metrics `semantic` and `panoptic`, as far as they were evaluated."""
        return {
            name: evaluation.metrics()
            for name, evaluation in self.evaluations.items()
            if name != "panoptic" or self.panoptic_truth
        }


@contextmanager
def evaluating_maps(maps: MapRequest, predictor: ImagePredictor[Any], dataset: Dataset) -> Iterator[MapEvaluations]:
    """Yield the map evaluations for the images of `dataset`; written panoptic maps are complete when the block ends
    without an error. Raises `ConfigError`, `DataError`.
    """
    if not maps.is_any:
        yield MapEvaluations(dataset, {}, panoptic_truth=False)
        return
    with ExitStack() as stack:
        yield MapEvaluations(dataset, _evaluations(maps, predictor, dataset, stack), maps.panoptic_json is not None)


def _evaluations(
    maps: MapRequest, predictor: ImagePredictor[Any], dataset: Dataset, stack: ExitStack
) -> dict[str, SemanticEvaluation | PanopticEvaluation]:
    evaluations: dict[str, SemanticEvaluation | PanopticEvaluation] = {}
    if maps.semantic is not None:
        evaluations["semantic"] = SemanticEvaluation(predictor, dataset, maps.semantic)
    ground_truth = (
        None
        if maps.panoptic_json is None
        else read_panoptic(maps.panoptic_json, maps.panoptic_dir or maps.panoptic_json.with_suffix(""), dataset)
    )
    if ground_truth is not None or maps.save is not None:
        categories = panoptic_categories(dataset, ground_truth)
        writer = None if maps.save is None else stack.enter_context(panoptic_writer(maps.save, categories))
        evaluations["panoptic"] = PanopticEvaluation(predictor, dataset, ground_truth, writer)
    return evaluations
