"""The options of an evaluation, checked before torch is imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from htc.data.formats.map_rules import AUTO, parse_map_options
from htc.data.semantic_maps import MapSources
from htc.errors import ConfigError
from htc.extras import require
from htc.inference.views import View

if TYPE_CHECKING:
    from htc.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The options of `htc.evaluate`, which documents them, except for the model and its configuration."""

    data: "str | Path | Dataset | Mapping[str, Dataset] | None" = None
    split: str = "val"
    annotations: str | Path | None = None
    images: str | Path | None = None
    label_maps: str = AUTO
    results: str | Path | None = None
    views: str | Sequence[View] | None = None
    against: str | Path | None = None
    stages: Sequence[str] = ()
    save_results: str | Path | None = None
    max_detections: int | None = None
    batch_size: int = 1
    workers: int = 0
    semantic: Literal["auto"] | MapSources | None = None
    panoptic_json: str | Path | None = None
    panoptic_dir: str | Path | None = None
    save_panoptic: str | Path | None = None
    diagnostics: bool = False
    html: str | Path | None = None

    @property
    def maps(self) -> bool:
        """Whether semantic or panoptic maps are evaluated or written."""
        return (self.semantic, self.panoptic_json, self.save_panoptic) != (None, None, None)

    @property
    def with_diagnostics(self) -> bool:
        """Whether diagnostics are computed, also for the page."""
        return self.diagnostics or self.html is not None

    def check(self, models: int) -> None:
        """Raise `ConfigError` for options that exclude each other or are missing, given the number of models, and
        `InstallationError` without the extra `evaluate`.
        """
        for name, minimum in {"batch_size": 1, "workers": 0, "max_detections": 1}.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"{name} is {value}: pass {minimum} or more")
        parse_map_options(self.label_maps)
        if bool(models) == (self.results is not None):
            raise ConfigError("pass either a model (MODEL) or results, a COCO result file (--results FILE)")
        if self.results is not None and (self.views is not None or self.stages or self.maps):
            raise ConfigError(
                "views, stages, semantic and panoptic maps need a model: a result file holds one set of detections"
            )
        if self.data is None and self.annotations is None:
            raise ConfigError("no dataset to evaluate on: pass data or annotations (--data DIR or --annotations FILE)")
        if self.data is not None and (self.annotations is not None or self.images is not None):
            raise ConfigError("pass either data, or annotations with images, not both")
        if self.panoptic_dir is not None and self.panoptic_json is None:
            raise ConfigError("panoptic_dir is the folder of the PNGs of panoptic_json: add it (--panoptic-json FILE)")
        if self.maps and self.stages:
            raise ConfigError("stages evaluates only instance masks: remove the semantic and panoptic maps")
        if (self.stages or self.maps) and (self.views is not None or models > 1):
            raise ConfigError("stages and maps are evaluated for one model without views: remove views or stages/maps")
        require("evaluate", "evaluation")
