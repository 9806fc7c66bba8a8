"""The configurations that `scripts/same_numbers` compares, enumerated from the types of `htc.Config`.

Every alternative of every field gives a case: each value of a `Literal`, each member of a union, both values of a bool,
null where it is allowed; the numbers of a section change together in one case. A case that the configuration refuses
needs an entry in `FITS`.

Usage: PYTHONPATH=TREE/src python same_numbers_cases.py ANSWER
"""

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

Values = dict[str, Any]
CHANNELS = 16
STDS = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
COUNTS = {
    "candidates_per_level": 30,
    "training_candidates_per_level": 30,
    "proposals": 40,
    "training_proposals": 40,
    "samples": 64,
}
RESNET = {"kind": "resnet", "depth": 18, "frozen_stages": -1}
DEEP = {**RESNET, "depth": 50}
AUGMENTATION = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "resize": False, "crop": [64, 64]}
OPTIMIZER = {"kind": "adamw", "lr": 1e-3}
BASE: Values = {
    "preset": "custom",
    "classes": ["disc", "square", "cross"],
    "category_ids": [4, 9, 11],
    "backbone": {"kind": "timm", "name": "test_resnet"},
    "neck": {"kind": "fpn", "channels": CHANNELS},
    "rpn": {"kind": "rpn", "anchor_scale": 4.0, **COUNTS},
    "cascade": {"samples": 16, "box_channels": 24, "mask_channels": CHANNELS, "mask_convs": 2},
    "semantic": {"classes": 4, "channels": CHANNELS, "convs": 1},
    "inference": {"max_detections": 20, "score_threshold": 0.02},
    "input": {"short_edge": 64, "long_edge": 96},
    "training": {
        "epochs": 2,
        "warmup_steps": 2,
        "batch_size": 2,
        "clip_gradients": 10.0,
        "optimizer": OPTIMIZER,
        "augmentation": AUGMENTATION,
    },
}
"""Three stages with everything of HTC, on timm's smallest residual network."""
MEMBERS: dict[str, Values] = {
    "resnet": RESNET,
    "timm": BASE["backbone"],
    "fishnet": {"kind": "fishnet", "depth": 99},
    "vit": {"kind": "vit", "name": "test_vit", "drop_path_rate": 0.1},
    "fpn": BASE["neck"],
    "pafpn": {**BASE["neck"], "kind": "pafpn"},
    "rfp": {**BASE["neck"], "kind": "rfp"},
    "rpn": BASE["rpn"],
    "guided_rpn": {"kind": "guided_rpn", "anchor_scale": 4.0, **COUNTS},
    "fine": {"kind": "fine", "detail_channels": 4},
    "aspp": {"kind": "aspp", "rates": [1, 2]},
    "adamw": OPTIMIZER,
}
"""What a member of a union is set to, by its kind; one that is not here takes its defaults."""
SKIPPED = {
    "preset": "a name",
    "classes": "each of the data sets has its own",
    "category_ids": "belong to the classes",
    "backbone.pretrained": "weights would be downloaded",
    "cascade.num_stages": "among the cases composed by hand",
    "precision": "every case predicts in both; one training in bfloat16 is composed by hand",
}
EXAMPLES: dict[str, Any] = {
    "cascade.mask_convs": 3,
    "semantic.classes": 4,
    "semantic.channels": CHANNELS,
    "semantic.ignore": 254,
    "neck.channels": CHANNELS,
    "backbone.name": "test_efficientnet",
    "backbone[vit].name": "test_vit2",
    "backbone[resnet].groups": 1,
    "inference.score_stages": [1, 3],
    "inference.mask_stages": [2, 3],
    "inference.box_stage": 2,
    "input.max_scale": 0.9,
    "input.divisor": 64,
    "training.milestones": [1],
    "training.average_decay": 0.9,
    "training.augmentation.short_edges": [56, 80],
    "training.augmentation.short_edge_choices": [56, 72],
    "training.augmentation.long_edge": 90,
    "training.augmentation.crop": [56, 48],
    "training.sampling.repeat_threshold": 0.9,
    "training.early_stop": 1,
    "training.accumulate": 2,
    "training.batch_size": 1,
    "training.clip_gradients": 0.1,
}
"""Values of fields that are null or of numbers that cannot change freely, by their path."""
NO_FUSION = {"cascade.semantic_fusion": "none"}
FREE = {"training.augmentation.resize": True, "training.augmentation.crop": None}
FITS: dict[str, Values] = {
    "semantic=none": NO_FUSION,
    "neck=rfp": {"backbone": RESNET},
    "neck[rfp]": {"backbone": RESNET},
    "backbone[resnet].stride_in=1x1": {"backbone.depth": 50},
    "backbone[resnet].deformable=": {"backbone.depth": 50, "backbone.deformable_stages": [4, 5]},
    "backbone[resnet].switchable=": {"backbone.switchable_stages": [4, 5]},
    "backbone[resnet].numbers": {"backbone.depth": 50, "backbone.base_width": 8, "backbone.groups": 2},
    "backbone.deformable=": {"backbone.deformable_stages": [4, 5]},
    "cascade.mask_head=none": {"cascade.mask_flow": False, "cascade.semantic_fusion": "box"},
    "cascade.box_norm=": {"cascade.box_convs": 1},
    "training.augmentation.short_edge": FREE,
    "training.augmentation.long_edge": FREE,
    "training.augmentation.resize": {"training.augmentation.crop": None},
    "training.augmentation.jitter": {**FREE, "training.augmentation.jitter": {"scales": [0.5, 1.5], "size": [64, 64]}},
    "training.optimizer[adamw].weight_decay_of": {"training.optimizer.layer_decay": 0.8, "backbone": MEMBERS["vit"]},
}
"""Settings that a case needs beside its own, by the beginning of its name."""


def stages(count: int) -> Values:
    """The settings of that many stages."""
    return {
        "cascade.num_stages": count,
        "cascade.delta_stds": STDS[:count],
        "cascade.ious": [0.5, 0.6, 0.7][:count],
        "cascade.loss_weights": [1.0, 0.5, 0.25][:count],
    }


PLAIN = {"semantic": None, "cascade.semantic_fusion": "none", "cascade.interleaved": False, "cascade.mask_flow": False}
DETECTORS = {**RESNET, "switchable": "deformable", "switchable_stages": [3, 4, 5], "standardised": True}
PANET = {"neck.kind": "pafpn", "cascade.pooled_levels": "all", "cascade.mask_head": {"kind": "fusion"}}
COMPOSED: dict[str, Values] = {
    "base": {},
    "Mask R-CNN": {**stages(1), **PLAIN, "cascade.class_agnostic_boxes": False, "backbone": RESNET},
    "Cascade Mask R-CNN": PLAIN,
    "HTC without a semantic branch": {"semantic": None, **NO_FUSION},
    "1 stage": stages(1),
    "2 stages": stages(2),
    "2 stages, class-specific boxes": {**stages(2), "cascade.class_agnostic_boxes": False},
    "2 stages, no mask flow": {**stages(2), "cascade.mask_flow": False},
    "PANet": {**PANET, **PLAIN, **stages(1)},
    "PANet, guided anchoring, GCN, Gaussian Soft-NMS": {
        **PANET,
        "rpn": MEMBERS["guided_rpn"],
        "semantic.context": {"kind": "gcn"},
        "inference.soft_nms": {"kind": "gaussian"},
    },
    "fine masks, all levels, precise pooling": {
        "cascade.mask_head": MEMBERS["fine"],
        "cascade.pooled_levels": "all",
        "cascade.pooling": "precise",
    },
    "fine masks, norms": {
        "cascade.mask_head": MEMBERS["fine"],
        "cascade.mask_norm": "group",
        "semantic.norm": "batch",
        "neck.norm": "batch",
    },
    "ResNet, two stages frozen": {"backbone": {**RESNET, "frozen_stages": 2}},
    "DetectoRS": {"backbone": DETECTORS, "neck.kind": "rfp"},
    "recursive pyramid, semantic, 1 stage": {"backbone": RESNET, "neck.kind": "rfp", **stages(1)},
    "convolutional box head": {"cascade.box_convs": 2, "cascade.box_fcs": 1, "cascade.box_norm": "group"},
    "probabilities, own stages": {
        "inference.score_ensemble": "probabilities",
        "inference.score_stages": [2, 3],
        "inference.mask_stages": [1],
        "inference.box_stage": 1,
    },
    "class-specific boxes, linear Soft-NMS": {
        "cascade.class_agnostic_boxes": False,
        "inference.soft_nms": {"kind": "linear"},
    },
    "Swin, layer norms": {
        **stages(1),
        "backbone": {
            "kind": "timm",
            "name": "swin_tiny_patch4_window7_224",
            "output_norm": "layer",
            "drop_path_rate": 0.2,
        },
    },
    "ConvNeXt": {
        **stages(1),
        "backbone": {"kind": "timm", "name": "test_convnext", "output_norm": "layer", "drop_path_rate": 0.2},
    },
    "training.boxes alone": {"cascade.mask_head": {"kind": "none"}, **PLAIN},
    "training.bfloat16": {"precision": "bf16"},
    "training.layer decay": {
        "backbone": MEMBERS["vit"],
        "training.optimizer": {**OPTIMIZER, "layer_decay": 0.7, "weight_decay_of": "weights"},
        "training.average_decay": 0.99,
    },
    "training.SGD, steps, accumulate": {
        "training.optimizer": {"kind": "sgd"},
        "training.accumulate": 2,
        "training.batch_size": 1,
        "training.milestones": [1],
        "training.sampling.group_by_shape": True,
    },
    "training.everything augmented": {
        **FREE,
        "training.augmentation.photometric": {},
        "training.augmentation.copy_paste": {},
        "training.augmentation.short_edges": [56, 80],
        "training.augmentation.crop": [48, 64],
    },
}
"""Combinations that no single field gives; `training.NAME` is compared as the section `training` is."""


def cases(config: Any) -> tuple[dict[str, Values], dict[str, str]]:
    """Name -> values of each case that the tree's configuration accepts; name -> error of those that it refuses."""
    found, refused = {}, {}
    for name, changes in [*COMPOSED.items(), *_alternatives(config)]:
        values = deepcopy(BASE)
        for path, value in changes.items():
            put(values, path, value)
        for start, needed in FITS.items():
            if name.startswith(start):
                for path, value in needed.items():
                    put(values, path, value)
        if name in found:
            continue
        try:
            found[name] = config.model_validate(values).model_dump(mode="json")
        except ValueError as error:
            refused[name] = " ".join(str(error).split())
    return found, refused


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern with * and ? is part of the name; square brackets stand for themselves."""
    return fnmatchcase(name, f"*{pattern.replace('[', '[[]')}*")


def put(values: Values, path: str, value: Any) -> None:
    """Sets the value of that path, as in `cascade.mask_flow`."""
    *parents, last = path.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[last] = deepcopy(value)


def _alternatives(config: Any) -> Iterator[tuple[str, Values]]:
    """(name, changes) of every field's alternatives to the base."""
    base = config.model_validate(BASE).model_dump(mode="json")
    yield from _of_section(config, "", "", base)


def _of_section(section: Any, path: str, label: str, present: Values) -> Iterator[tuple[str, Values]]:
    """The alternatives of a section's fields; `label` is its path with the kinds that were chosen on the way."""
    numbers: Values = {}
    for name, field in section.model_fields.items():
        where, shown = f"{path}{name}", f"{label}{name}"
        if where in SKIPPED or name == "kind":
            continue
        now = present.get(name)
        simple = _numbers(shown, where, now)
        if simple is not None and not _choices(field.annotation):
            numbers[where] = simple
        yield from _of_field(field.annotation, where, shown, now)
    if numbers:
        yield f"{label or 'root.'}numbers", numbers


def _of_field(annotation: Any, path: str, label: str, now: Any) -> Iterator[tuple[str, Values]]:
    members = _members(annotation)
    sections = [member for member in members if hasattr(member, "model_fields")]
    for value in _choices(annotation):
        if value != now:
            yield f"{label}={str(value).lower()}", {path: value}
    if NoneType in members and now is not None:
        yield f"{label}=none", {path: None}
    if NoneType in members and now is None and not sections and not _choices(annotation):
        yield (
            f"{label}={EXAMPLES.get(label, EXAMPLES.get(path))}",
            {path: EXAMPLES.get(label, EXAMPLES.get(path, "no example"))},
        )
    for member in sections:
        kind = member.model_fields["kind"].default if "kind" in member.model_fields else None
        if kind == "custom":
            continue  # a module of the user, which no configuration alone can build
        chosen = now is not None and (kind is None or now.get("kind") == kind)
        start = now if chosen else MEMBERS.get(kind or "", {} if kind is None else {"kind": kind})
        tag = label if kind is None or chosen else f"{label}[{kind}]"
        if not chosen:
            yield f"{label}={kind or 'default'}", {path: start}
        default = member.model_validate(start).model_dump(mode="json")
        for name, changes in _of_section(member, f"{path}.", f"{tag}.", default):
            yield name, changes if chosen else {path: start, **changes}


def _members(annotation: Any) -> list[Any]:
    """The types that a value may have; what is Annotated without its annotations."""
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return [member for one in get_args(annotation) for member in _members(one)]
    return [annotation]


def _choices(annotation: Any) -> list[Any]:
    """The values of literals and of bools."""
    found: list[Any] = []
    for member in _members(annotation):
        if get_origin(member) is Literal:
            found += get_args(member)
        elif member is bool:
            found += [True, False]
    return found


def _numbers(label: str, path: str, now: Any) -> Any:
    """Other numbers in place of these; None where there are none."""
    for known in (label, path):
        if known in EXAMPLES and now is not None:
            return EXAMPLES[known]
    if isinstance(now, bool) or now is None:
        return None
    if isinstance(now, int):
        return now + 1
    if isinstance(now, float):
        return now * 0.75
    if isinstance(now, list) and now:
        other = [_numbers("", "", one) for one in now]
        return None if None in other else other
    return None


if __name__ == "__main__":
    import htc

    accepted, others = cases(htc.Config)
    Path(sys.argv[1]).write_text(json.dumps({"cases": accepted, "refused": others}))
