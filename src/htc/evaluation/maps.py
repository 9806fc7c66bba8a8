"""Evaluate semantic maps (mean IoU) and panoptic maps (PQ) image by image, beside the instances of the same pass."""

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
    """Adds up pixels of images: [true class, found class]; pixels of class 255 do not count."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, truth: UInt8[np.ndarray, "H W"], found: UInt8[np.ndarray, "H W"]) -> None:
        """One image."""
        labelled = truth != IGNORE
        classes = len(self.counts)
        pairs = truth[labelled].astype(np.int64) * classes + found[labelled]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def numbers(self, names: Mapping[int, str]) -> dict[str, Any]:
        """mIoU over the classes that are annotated anywhere, the share of right pixels, IoU of each; 0..1, -1
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
    """Names of the labels of maps derived from the instances: background, then the classes."""
    return {0: "background", **dict(enumerate(config.classes, start=1))}


@dataclass
class SemanticMeasure:
    """mIoU against maps on the disk, numbered as training would number them, or derived from the annotated instances
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
                f"--semantic auto: the branch has {branch.classes} classes, maps derived from instances need "
                f"{classes + 1}; name a folder of maps"
            )
        self.counts = SemanticCounts(branch.classes)

    def look(self, record: ImageRecord, found: Detections) -> None:
        """Counts one image. Raises `DataError` for its PNG."""
        assert found.semantic is not None
        truth = annotated(record, len(self.counts.counts), self.dataset.semantic_maps).semantic
        assert truth is not None
        self.counts.add(self._names()[truth] if self.maps == "auto" else truth, found.semantic.labels())

    def numbers(self) -> dict[str, Any]:
        """See `SemanticCounts.numbers`."""
        return self.counts.numbers(
            semantic_names(self.predictor.config) if self.maps == "auto" else semantic_class_names(self.dataset)
        )

    def _names(self) -> np.ndarray:
        """From the annotations' labels to the model's, by name: they may be in another order."""
        labels = np.full(256, IGNORE, np.uint8)
        labels[0] = 0
        for label, name in enumerate(self.dataset.classes):
            if name in self.predictor.config.classes:
                labels[label + 1] = self.predictor.config.classes.index(name) + 1
        return labels


def _check_classes(branch: int, needed: int, *, exact: bool) -> None:
    """Panoptic classes alone are all that a branch trained on them has; a folder may have more than a part of the
    data shows.
    """
    if branch < needed or (exact and branch != needed):
        raise ConfigError(
            f"--semantic: the model's branch has {branch} classes, these maps need {needed}; give the maps of its "
            f"training's kind, or auto"
        )


@dataclass
class PanopticMeasure:
    """PQ against COCO's panoptic annotations where there are some, and the maps on the disk where they are wanted."""

    predictor: ImagePredictor[Any]
    dataset: Dataset
    truth: PanopticFile | None
    writer: PanopticWriter | None
    counts: PanopticQuality = field(init=False)

    def __post_init__(self) -> None:
        categories = {one.id: one for one in panoptic_categories(self.dataset, self.truth)}
        self.counts = PanopticQuality(categories)
        self._things = {
            one.name: one.id for one in categories.values() if one.thing and one.name in self.predictor.config.classes
        }
        self._stuff = stuff_labels(self.predictor.config, {id: not one.thing for id, one in categories.items()})

    def look(self, record: ImageRecord, found: Detections) -> None:
        """Merges, measures and writes one image."""
        merged = merge(found, self._things, self._stuff)
        if self.truth is not None:
            self.counts.add(self.truth.read(record.id, (record.height, record.width)), merged)
        if self.writer is not None:
            self.writer.add(record.id, record.path.stem, merged)

    def numbers(self) -> dict[str, Any]:
        """See `PanopticQuality.numbers`."""
        return self.counts.numbers()


def panoptic_categories(dataset: Dataset, truth: PanopticFile | None) -> Sequence[Category]:
    """Those of the panoptic annotations, else the classes of the instances, which are things."""
    if truth is not None:
        return list(truth.categories.values())
    return [Category(id, name, True) for id, name in zip(dataset.category_ids, dataset.classes, strict=True)]


@dataclass(frozen=True)
class MapRequest:
    """Which semantic and panoptic maps an evaluation measures or writes."""

    semantic: Literal["auto"] | MapSources | None = None
    panoptic_json: Path | None = None
    panoptic_dir: Path | None = None
    """PNGs of `panoptic_json`; None: beside it, with its stem as the name."""
    save: Path | None = None
    """Folder for the merged maps."""

    @property
    def wanted(self) -> bool:
        """Whether anything is measured or written."""
        return (self.semantic, self.panoptic_json, self.save) != (None, None, None)


@dataclass
class MeasuredMaps:
    """The measures of one run, by the name of their numbers."""

    dataset: Dataset
    measures: dict[str, SemanticMeasure | PanopticMeasure]
    panoptic_truth: bool

    @property
    def look(self) -> Callable[[int | str, Detections], None] | None:
        """Shows every image to all measures; None where there are none."""
        if not self.measures:
            return None
        records = {record.id: record for record in self.dataset.images}

        def look(image_id: int | str, found: Detections) -> None:
            for measure in self.measures.values():
                measure.look(records[image_id], found)

        return look

    def numbers(self) -> dict[str, Any]:
        """`semantic` and `panoptic`, as far as they were measured."""
        return {
            name: measure.numbers()
            for name, measure in self.measures.items()
            if name != "panoptic" or self.panoptic_truth
        }


@contextmanager
def measured_maps(maps: MapRequest, predictor: ImagePredictor[Any], dataset: Dataset) -> Iterator[MeasuredMaps]:
    """Measures for the images of `dataset`; panoptic maps are complete when the block ends well. Raises
    `ConfigError`, `DataError`.
    """
    if not maps.wanted:
        yield MeasuredMaps(dataset, {}, panoptic_truth=False)
        return
    with ExitStack() as stack:
        yield MeasuredMaps(dataset, _measures(maps, predictor, dataset, stack), maps.panoptic_json is not None)


def _measures(
    maps: MapRequest, predictor: ImagePredictor[Any], dataset: Dataset, stack: ExitStack
) -> dict[str, SemanticMeasure | PanopticMeasure]:
    measures: dict[str, SemanticMeasure | PanopticMeasure] = {}
    if maps.semantic is not None:
        measures["semantic"] = SemanticMeasure(predictor, dataset, maps.semantic)
    truth = (
        None
        if maps.panoptic_json is None
        else read_panoptic(maps.panoptic_json, maps.panoptic_dir or maps.panoptic_json.with_suffix(""), dataset)
    )
    if truth is not None or maps.save is not None:
        categories = panoptic_categories(dataset, truth)
        writer = None if maps.save is None else stack.enter_context(panoptic_writer(maps.save, categories))
        measures["panoptic"] = PanopticMeasure(predictor, dataset, truth, writer)
    return measures
