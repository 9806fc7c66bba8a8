"""The start of a training: the configuration fitted to the data, and the weights it starts from.

Class layers keep the rows of classes that the weights know, by name; other rows, and frozen layers of a backbone
without weights, are random. All of it is reported.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from htc.checkpoint.fit import LoadedWeights
from htc.checkpoint.formats.imagenet import expected_colors
from htc.config import Backbone, Config, CustomBackbone, FishNet, Input, ResNet, ViT
from htc.data.dataset import Dataset
from htc.data.semantic_maps import MapSources, least_classes
from htc.errors import CheckpointError
from htc.model.backbone import build_backbone
from htc.model.detector import Detector
from htc.model.norms import FixedBatchNorm2d


def kept_random(config: Backbone) -> str | None:
    """What stays random in a backbone that starts from no weights, and how to avoid it; None where all of it learns.

    Raises `ConfigError` for a network that cannot be built.
    """
    # A ViT is never frozen, and its position tables that do not learn are drawn by rule, not at random; a user's module
    # brings its own weights.
    if isinstance(config, ViT | CustomBackbone):
        return None
    with torch.device("meta"):
        backbone = build_backbone(config)
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    fixed = any(isinstance(part, FixedBatchNorm2d) for part in backbone.modules())
    kept = ["frozen layers"] * frozen + ["fixed statistics of norms"] * fixed
    if not kept:
        return None
    return f"nothing to start from, and {' and '.join(kept)} of the backbone stay as drawn: give {_remedies(config)}"


def _remedies(config: Backbone) -> str:
    """Flags: weights for the backbone, weights for all, or a backbone that learns as a whole."""
    match config:
        case ResNet():
            return "--backbone.pretrained true, --weights NAME, or --backbone.norm group --backbone.frozen_stages -1"
        case FishNet():
            return "--backbone.pretrained FILE, --weights NAME, or --backbone.norm group"
        case _:
            return "--backbone.pretrained true, --weights NAME, or --backbone.norm batch --backbone.frozen_stages -1"


BOXES_ONLY = {"none": "none", "box": "box", "mask": "none", "both": "box"}
"""What is left of the semantic fusion in a model without mask heads."""
SAME_COLOR = 0.1
"""Gray levels of 255 by which means and deviations may differ and count as the same: published ones are rounded."""
OF_THE_CLASSES = (".classify.", ".regress.", ".logits.", "semantic.logits.")
"""Layers with rows of their own for each class: rows of classes that the weights do not know start anew."""


def fit_to_data(config: Config, dataset: Dataset, semantic: Literal["auto", "none"] | MapSources) -> Config:
    """`config` with the data's classes and ids, and a semantic branch that fits its targets.

    Targets derived from K classes have K + 1 values (background 0), panoptic ones as many as they have categories; with
    a folder of maps the branch stays as configured, unless what lies over them has higher values; `none` leaves the
    branch and its fusion out. Data without any mask leave the mask heads out.
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
    """Whether there are objects, and none has a mask: such data train a model of boxes alone."""
    objects = [instance for record in dataset.images for instance in record.instances if not instance.crowd]
    return bool(objects) and all(instance.segmentation is None for instance in objects)


@dataclass(frozen=True)
class Start:
    """What a training took over from its weights, and what begins anew."""

    weights: str
    new_layers: tuple[str, ...]
    """Class layers whose rows began at random, but for those of `kept_classes`; empty where the classes are the
    weights' own.
    """
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    new_proposals: tuple[str, ...] = ()
    """Layers of the proposals that began at random, because the weights make theirs another way."""

    other_input: tuple[str, ...] = ()
    """Flags with the weights' mean and deviation of the input, where this training has others."""

    def lines(self) -> list[str]:
        """For the person who starts the training."""
        proposals = (
            [f"new are the layers of the proposals, made another way there: {', '.join(self.new_proposals)}"]
            if self.new_proposals
            else []
        )
        return self._lines_of_classes() + proposals + self._lines_of_input()

    def _lines_of_input(self) -> list[str]:
        if not self.other_input:
            return []
        return [
            f"{self.weights} was trained on images normalized otherwise, and has to learn this training's anew; for "
            f"its own: {' '.join(self.other_input)}"
        ]

    def _lines_of_classes(self) -> list[str]:
        if not self.new_layers:
            return [
                f"{'all other' if self.new_proposals else 'all'} layers start from {self.weights}: it knows "
                f"{_some(self.kept_classes)}"
            ]
        kept = f"; what the weights know of {_some(self.kept_classes)} is kept, by name" if self.kept_classes else ""
        layers = (
            f"new are {'' if self.new_proposals else 'only '}the layers of the classes ({', '.join(self.new_layers)})"
        )
        return [
            f"all other layers start from {self.weights}",
            f"{layers}: {_some(self.new_classes) if self.new_classes else 'no class'} from nothing{kept}",
        ]


def other_colors(config: Config) -> str | None:
    """What to say where the backbone's ImageNet weights were trained with another normalization than `config.input`
    has, else None.
    """
    expected = expected_colors(config.backbone)
    if expected is None:
        return None
    flags = input_flags(config.input, *expected)
    return f"its weights were trained with other colors: give {' '.join(flags)}" if flags else None


def input_flags(own: Input, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[str, ...]:
    """The flags that give a training the mean and deviation of the input that weights know, for each that differs."""
    known = {"mean": (own.mean, mean), "std": (own.std, std)}
    differs = {
        field: theirs
        for field, (ours, theirs) in known.items()
        if any(abs(a - b) > SAME_COLOR for a, b in zip(ours, theirs, strict=True))
    }
    return tuple(f"--input.{field} {','.join(f'{value:g}' for value in theirs)}" for field, theirs in differs.items())


def start_from(detector: Detector, weights: LoadedWeights, name: str) -> Start:
    """Copies weights into the detector. Class layers start anew, but for the rows of classes that both know by the same
    name.

    Where one has a plain RPN and the other guided anchoring, the layers that these do not share start anew, so that a
    trained detector can be finetuned on other proposals (paper, section 4.5). Raises `CheckpointError` if any other
    weight is missing or of another shape, or the stride lies in another convolution: the weights are of another
    architecture.
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
            f"the weights {name} are of another architecture: {len(other)} of {len(own)} do not fit, first "
            f"{other[0]}, which is {have}; "
            "give the --preset they belong to"
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
    """No shape shows which convolution has the stride, so that weights of the other kind would load and mean little."""
    own, other = ours.backbone, theirs.backbone
    if isinstance(own, ResNet) and isinstance(other, ResNet) and own.stride_in != other.stride_in:
        raise CheckpointError(
            f"the weights {name} are of another architecture: their ResNet has the stride in the {other.stride_in} "
            f"convolution, this training's in the "
            f"{own.stride_in}; add --backbone.stride-in {other.stride_in}"
        )


def class_rows(key: str, ours: Config, theirs: Config) -> dict[int, int] | None:
    """Which rows of a class layer mean the same in both models (ours -> theirs); None if the layers cannot be compared.

    Scores have the background last, masks have none. Box deltas have four rows a class, or four for all. A semantic map
    that was derived from the instances has the background first; any other (COCO-Stuff) is the same only if it is as
    large.
    """
    places = {theirs.classes.index(one): row for row, one in enumerate(ours.classes) if one in theirs.classes}
    same = {row: old for old, row in places.items()}
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
