"""Fine-tuning: fit the configuration to the dataset and load the weights to start from.

Class layers keep the rows of classes with the same name; other rows are initialized at random. What is kept and what
is new is reported, as are frozen layers of a backbone that has no pretrained weights.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from htc.checkpoint.fit import LoadedWeights
from htc.checkpoint.formats.imagenet import expected_normalization
from htc.config import Backbone, Config, CustomBackbone, FishNet, Input, ResNet, ViT
from htc.data.columns import table_of
from htc.data.dataset import Dataset
from htc.data.semantic_maps import MapSources, least_classes
from htc.errors import CheckpointError
from htc.model.backbone import build_backbone
from htc.model.detector import Detector
from htc.model.norms import FixedBatchNorm2d


def kept_random(config: Backbone) -> str | None:
    """Report which parts of a backbone without pretrained weights stay random, and how to avoid it; None if every part
    is trained.

    Raises `ConfigError` for a network that cannot be built.
    """
    # A ViT is never frozen, and its fixed position tables are computed, not random; a user's module has its own
    # weights.
    if isinstance(config, ViT | CustomBackbone):
        return None
    with torch.device("meta"):
        backbone = build_backbone(config)
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    fixed = any(isinstance(part, FixedBatchNorm2d) for part in backbone.modules())
    kept = ["frozen layers"] * frozen + ["fixed statistics of norms"] * fixed
    if not kept:
        return None
    return (
        f"no pretrained weights, and {' and '.join(kept)} of the backbone would keep their random initial values: add "
        f"{_remedies(config)}"
    )


def _remedies(config: Backbone) -> str:
    """Return the flags that help: weights for the backbone, weights for the model, or a backbone without frozen
    parts.
    """
    match config:
        case ResNet():
            return "--backbone.pretrained true, --weights NAME, or --backbone.norm group --backbone.frozen_stages -1"
        case FishNet():
            return "--backbone.pretrained FILE, --weights NAME, or --backbone.norm group"
        case _:
            return "--backbone.pretrained true, --weights NAME, or --backbone.norm batch --backbone.frozen_stages -1"


BOXES_ONLY = {"none": "none", "box": "box", "mask": "none", "both": "box"}
"""The semantic fusion of a model with mask heads -> that of the same model without them."""
SAME_COLOR = 0.1
"""Tolerance (of 255) within which means and standard deviations count as equal: published values are rounded."""
OF_THE_CLASSES = (".classify.", ".regress.", ".logits.", "semantic.logits.")
"""Layers that have separate rows for each class; rows of classes that are not in the weights stay random."""


def fit_to_data(config: Config, dataset: Dataset, semantic: Literal["auto", "none"] | MapSources) -> Config:
    """Return `config` with the dataset's classes and ids, and a semantic branch that fits its targets.

    Targets derived from K classes have K + 1 values (background 0), panoptic targets one for each category. With a
    folder of maps the branch keeps its number of classes, unless merged maps have higher values; `none` removes the
    branch and its fusion. A dataset without masks removes the mask heads.
    """
    changed = config.model_dump()
    changed |= {"classes": dataset.classes, "category_ids": dataset.category_ids}
    if semantic == "none":
        changed["semantic"] = None
        changed["cascade"]["semantic_fusion"] = "none"
    elif config.semantic is not None:
        maps, needed = dataset.semantic_maps, least_classes(dataset)
        from_folder = maps is not None and maps.folder is not None
        changed["semantic"]["classes"] = max(config.semantic.classes, needed) if from_folder else needed
    if without_masks(dataset):
        cascade = changed["cascade"]
        cascade |= {
            "mask_head": {"kind": "none"},
            "mask_flow": False,
            "semantic_fusion": BOXES_ONLY[cascade["semantic_fusion"]],
        }
    return Config.model_validate(changed)


def without_masks(dataset: Dataset) -> bool:
    """Return whether the dataset has instances and none has a mask: the model then has no mask heads."""
    table = table_of(dataset.images).without_crowds()
    return len(table.masked) > 0 and not table.masked.any()


@dataclass(frozen=True)
class Start:
    """Which layers a training took over from the weights, and which were initialized at random."""

    weights: str
    new_layers: tuple[str, ...]
    """Class layers with randomly initialized rows (all but those of `kept_classes`); empty if the weights have all
    classes.
    """
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    new_proposals: tuple[str, ...] = ()
    """RPN layers initialized at random because the weights have another kind of RPN."""

    other_input: tuple[str, ...] = ()
    """Flags that set the mean and standard deviation of the weights, where this training has others."""

    def lines(self) -> list[str]:
        """Return the messages for the user who starts the training."""
        proposals = (
            [
                "RPN layers initialized at random (the weights have another kind of RPN): "
                f"{', '.join(self.new_proposals)}"
            ]
            if self.new_proposals
            else []
        )
        return self._lines_of_classes() + proposals + self._lines_of_input()

    def _lines_of_input(self) -> list[str]:
        if not self.other_input:
            return []
        return [
            f"{self.weights} was trained with another image normalization and must adapt to this one; to use its own, "
            f"add {' '.join(self.other_input)}"
        ]

    def _lines_of_classes(self) -> list[str]:
        if not self.new_layers:
            return [
                f"{'all other' if self.new_proposals else 'all'} layers start from {self.weights}, which has "
                f"{_some(self.kept_classes)}"
            ]
        kept = f"; {_some(self.kept_classes)} kept from the weights, matched by name" if self.kept_classes else ""
        layers = f"class layers{'' if self.new_proposals else ' alone'} have new rows ({', '.join(self.new_layers)})"
        return [
            f"all other layers start from {self.weights}",
            f"{layers}: {_some(self.new_classes) if self.new_classes else 'no class'} initialized at random{kept}",
        ]


def other_normalization(config: Config) -> str | None:
    """Return a warning if the backbone's ImageNet weights were trained with another image normalization than
    `config.input`, else None.
    """
    expected = expected_normalization(config.backbone)
    if expected is None:
        return None
    flags = input_flags(config.input, *expected)
    return f"its weights were trained with another image normalization: add {' '.join(flags)}" if flags else None


def input_flags(own: Input, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[str, ...]:
    """Return the flags that set the weights' input mean and standard deviation, for each that differs."""
    pairs = {"mean": (own.mean, mean), "std": (own.std, std)}
    differs = {
        field: theirs
        for field, (ours, theirs) in pairs.items()
        if any(abs(a - b) > SAME_COLOR for a, b in zip(ours, theirs, strict=True))
    }
    return tuple(f"--input.{field} {','.join(f'{value:g}' for value in theirs)}" for field, theirs in differs.items())


def start_from(detector: Detector, weights: LoadedWeights, name: str) -> Start:
    """Copy weights into the detector. Class layers keep only the rows of classes with the same name in both.

    If one has a plain RPN and the other guided anchoring, the layers that these do not share stay random, so that a
    trained detector can be fine-tuned on other proposals (paper, section 4.5). Raises `CheckpointError` if any other
    weight is missing or has another shape, or if the ResNet's stride is in another convolution: the weights belong to
    another architecture.
    """
    own, state = detector.state_dict(), weights.state_dict
    ours, theirs = detector.config, weights.config
    _check_stride(ours, theirs, name)
    of_classes = [key for key in own if _is_of_classes(key)]
    other = [key for key in own if key not in of_classes and (key not in state or state[key].shape != own[key].shape)]
    proposals = [key for key in other if key.startswith("rpn.") and ours.rpn.kind != theirs.rpn.kind]
    other = [key for key in other if key not in proposals]
    if other:
        have = (
            "missing"
            if other[0] not in state
            else f"of shape {tuple(state[other[0]].shape)} instead of {tuple(own[other[0]].shape)}"
        )
        raise CheckpointError(
            f"the weights {name} belong to another architecture: {len(other)} of {len(own)} tensors do not fit, the "
            f"first is {other[0]}, which is {have}; set --preset to the one of the weights"
        )
    new_layers = []
    taken = {key: own[key] if key in proposals else state[key] for key in own if key not in of_classes}
    for key in of_classes:
        rows = class_rows(key, ours, theirs)
        if rows is None or key not in state or state[key].shape[1:] != own[key].shape[1:]:
            rows = {}
        value = own[key].clone()
        for row, old in rows.items():
            value[row] = state[key][old]
        taken[key] = value
        if len(rows) < len(value):
            new_layers.append(key.rsplit(".", 1)[0])
    detector.load_state_dict(taken)
    kept = tuple(one for one in ours.classes if one in theirs.classes)
    new_proposals = tuple(dict.fromkeys(key.rsplit(".", 1)[0] for key in proposals))
    new_classes = tuple(one for one in ours.classes if one not in kept)
    other_input = input_flags(ours.input, theirs.input.mean, theirs.input.std)
    return Start(name, tuple(dict.fromkeys(new_layers)), kept, new_classes, new_proposals, other_input)


def _check_stride(ours: Config, theirs: Config, name: str) -> None:
    """Raise `CheckpointError` if the stride is in another convolution: no shape shows it, so the weights would load but
    predict poorly.
    """
    own, other = ours.backbone, theirs.backbone
    if isinstance(own, ResNet) and isinstance(other, ResNet) and own.stride_in != other.stride_in:
        raise CheckpointError(
            f"the weights {name} belong to another architecture: their ResNet has the stride in the {other.stride_in} "
            f"convolution, this training's in the {own.stride_in}; add --backbone.stride-in {other.stride_in}"
        )


def class_rows(key: str, ours: Config, theirs: Config) -> dict[int, int] | None:
    """Map the rows of a class layer to the rows of the same class in the weights (ours -> theirs); None if the layers
    cannot be compared.

    Class scores have the background last, masks have none. Box deltas have four rows for each class, or four for all.
    Semantic maps derived from the instances have the background first; any other (COCO-Stuff) is taken as the same only
    if it has as many classes.
    """
    indices = {theirs.classes.index(one): row for row, one in enumerate(ours.classes) if one in theirs.classes}
    same = {row: old for old, row in indices.items()}
    if "semantic.logits." in key:
        if ours.semantic is None or theirs.semantic is None:
            return None
        counts = (ours.semantic.classes, theirs.semantic.classes)
        if counts == (ours.num_classes + 1, theirs.num_classes + 1):
            return {0: 0} | {row + 1: old + 1 for row, old in same.items()}
        return {row: row for row in range(counts[0])} if counts[0] == counts[1] else None
    if ".classify." in key:
        return same | {ours.num_classes: theirs.num_classes}
    if ".regress." in key:
        if ours.cascade.class_agnostic_boxes != theirs.cascade.class_agnostic_boxes:
            return None
        if ours.cascade.class_agnostic_boxes:
            return {row: row for row in range(4)}
        return {4 * row + i: 4 * old + i for row, old in same.items() for i in range(4)}
    return same


def _is_of_classes(key: str) -> bool:
    return any(part in f".{key}" for part in OF_THE_CLASSES)


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"
