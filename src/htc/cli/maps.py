"""What `htc evaluate` does with semantic and panoptic maps."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from htc.cli.output import folder_for, say
from htc.errors import ConfigError

if TYPE_CHECKING:
    from htc.data.dataset import Dataset
    from htc.data.semantic_maps import MapSources
    from htc.evaluation.maps import PanopticMeasure, SemanticMeasure
    from htc.evaluation.run import OnDetections
    from htc.inference.predictor import Predictor


@dataclass(frozen=True)
class Maps:
    """Which maps a call wants measured or written."""

    semantic: "Literal['auto'] | MapSources | None" = None
    panoptic_json: Path | None = None
    panoptic_dir: Path | None = None
    save: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is to be done."""
        return (self.semantic, self.panoptic_json, self.save) != (None, None, None)


def check_maps(maps: Maps, model: str | None, subsets: Sequence[tuple[int, ...]]) -> None:
    """Raises `ConfigError` for what cannot go together, before anything is built."""
    if maps.panoptic_dir is not None and maps.panoptic_json is None:
        raise ConfigError("--panoptic-dir holds the maps of --panoptic-json FILE, which is missing")
    if maps.wanted and model is None:
        raise ConfigError(
            "--semantic, --panoptic-json and --save-panoptic need a MODEL: a result file has no semantic maps"
        )
    if maps.wanted and subsets:
        raise ConfigError(
            "--stages measures masks of single stages alone: leave out --semantic, --panoptic-json and --save-panoptic"
        )


@dataclass
class MeasuredMaps:
    """The measures of one run, by the name of their numbers."""

    dataset: "Dataset"
    measures: "dict[str, SemanticMeasure | PanopticMeasure]"
    panoptic_truth: bool

    @property
    def look(self) -> "OnDetections | None":
        """Shows every picture to all measures; None where there are none."""
        if not self.measures:
            return None
        records = {record.id: record for record in self.dataset.images}

        def look(image_id: int | str, found: Any) -> None:
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
def measured_maps(maps: Maps, predictor: "Predictor", dataset: "Dataset") -> Iterator[MeasuredMaps]:
    """Measures for the pictures of `dataset`; panoptic maps are complete when the block ends well. Raises
    `ConfigError`, `DataError`.
    """
    if not maps.wanted:
        yield MeasuredMaps(dataset, {}, panoptic_truth=False)
        return
    with ExitStack() as stack:
        yield MeasuredMaps(dataset, _measures(maps, predictor, dataset, stack), maps.panoptic_json is not None)
    if maps.save is not None:
        say(f"panoptic maps in {maps.save}")


def _measures(
    maps: Maps, predictor: "Predictor", dataset: "Dataset", stack: ExitStack
) -> "dict[str, SemanticMeasure | PanopticMeasure]":
    from htc.data.panoptic import read_panoptic
    from htc.evaluation.maps import PanopticMeasure, SemanticMeasure, panoptic_categories
    from htc.evaluation.panoptic import panoptic_writer

    measures: dict[str, SemanticMeasure | PanopticMeasure] = {}
    if maps.semantic is not None:
        measures["semantic"] = SemanticMeasure(predictor, dataset, maps.semantic)
    truth = (
        None
        if maps.panoptic_json is None
        else read_panoptic(maps.panoptic_json, maps.panoptic_dir or maps.panoptic_json.with_suffix(""), dataset)
    )
    if truth is not None or maps.save is not None:
        folder = None if maps.save is None else folder_for("evaluate", "panoptic", maps.save)
        writer = (
            None
            if folder is None
            else stack.enter_context(panoptic_writer(folder, panoptic_categories(dataset, truth)))
        )
        measures["panoptic"] = PanopticMeasure(predictor, dataset, truth, writer)
    return measures
