"""Where a training starts: the configuration fitted to the data, the weights it begins with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from htc.config import Config
from htc.data.records import Dataset
from htc.errors import CheckpointError

OF_THE_CLASSES = (".classify.", ".regress.", ".logits.", "semantic.logits.")
"""Layers whose shape depends on the classes: they start anew when the data's classes are others than the weights'."""


def fit_to_data(config: Config, dataset: Dataset, semantic: Literal["auto", "none"] | Path) -> Config:
    """`config` with the data's classes and ids, and a semantic branch that fits its targets.

    Targets derived from K classes have K + 1 values (background 0); with a folder of maps the branch stays as configured;
    `none` leaves the branch and its fusion out.
    """
    changed = config.model_dump()
    changed |= {"classes": dataset.classes, "category_ids": dataset.category_ids}
    if semantic == "none":
        changed["semantic"] = None
        changed["cascade"]["semantic_fusion"] = "none"
    elif semantic == "auto" and config.semantic is not None:
        changed["semantic"]["classes"] = len(dataset.classes) + 1
    return Config.model_validate(changed)


def start_from(detector: nn.Module, state: Mapping[str, Tensor], name: str) -> tuple[str, ...]:
    """Copies weights into the detector; the names of the class-dependent layers that keep their random start.

    Raises `CheckpointError` if any other weight is missing or of another shape: the weights are of another architecture.
    """
    own = detector.state_dict()
    other = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    wrong = [key for key in other if not any(part in f".{key}" for part in OF_THE_CLASSES)]
    if wrong:
        have = "missing" if wrong[0] not in state else f"of shape {tuple(state[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
        raise CheckpointError(
            f"the weights {name} are of another architecture: {len(wrong)} of {len(own)} do not fit, first {wrong[0]}, which is {have}; "
            "give the --preset they belong to"
        )
    detector.load_state_dict({key: state[key] for key in own if key not in other}, strict=False)
    return tuple(other)
