"""Makes files as the original wrote them over the years, from a state dict of ours."""

import re
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htc.config import FPN, Cascade, Config, ResNet, Semantic
from htc.model.detector import Detector

CLASSES = ("nut", "bolt", "screw")

_THEIRS = (
    (r"^neck\.lateral\.", "neck.lateral_convs."),
    (r"^neck\.output\.", "neck.fpn_convs."),
    (r"^neck\.downsample\.", "neck.downsample_convs."),
    (r"^neck\.bottom_up\.", "neck.pafpn_convs."),
    (r"^rpn\.conv\.", "rpn_head.rpn_conv."),
    (r"^rpn\.objectness\.", "rpn_head.rpn_cls."),
    (r"^rpn\.deltas\.", "rpn_head.rpn_reg."),
    (r"^roi\.box_heads\.(\d)\.fc\.", r"roi_head.bbox_head.\1.shared_fcs."),
    (r"^roi\.box_heads\.(\d)\.classify\.", r"roi_head.bbox_head.\1.fc_cls."),
    (r"^roi\.box_heads\.(\d)\.regress\.", r"roi_head.bbox_head.\1.fc_reg."),
    (r"^roi\.mask_heads\.(\d)\.logits\.", r"roi_head.mask_head.\1.conv_logits."),
    (r"^roi\.mask_heads\.(\d)\.", r"roi_head.mask_head.\1."),
    (r"^roi\.mask_flows\.0\.", "roi_head.mask_head.1.conv_res."),
    (r"^roi\.mask_flows\.1\.", "roi_head.mask_head.2.conv_res."),
    (r"^semantic\.lateral\.", "roi_head.semantic_head.lateral_convs."),
    (r"^semantic\.convs\.", "roi_head.semantic_head.convs."),
    (r"^semantic\.logits\.", "roi_head.semantic_head.conv_logits."),
    (r"^semantic\.embedding\.", "roi_head.semantic_head.conv_embedding."),
)
_GUIDED = (
    (r"^rpn\.location\.", "rpn_head.conv_loc."),
    (r"^rpn\.shape\.", "rpn_head.conv_shape."),
    (r"^rpn\.adaption\.offset\.", "rpn_head.feature_adaption.conv_offset."),
    (r"^rpn\.adaption\.conv\.", "rpn_head.feature_adaption.conv_adaption."),
    (r"^rpn\.objectness\.", "rpn_head.conv_cls."),
    (r"^rpn\.deltas\.", "rpn_head.conv_reg."),
)


def tiny_config(**cascade: Any) -> Config:
    """A complete HTC with the smallest heads; the backbone is the smallest ResNet."""
    values = {"box_channels": 8, "mask_channels": 8, "mask_convs": 1, **cascade}
    semantic = Semantic(classes=5, channels=8, convs=1) if values.get("semantic_fusion", "both") != "none" else None
    return Config(
        classes=CLASSES,
        category_ids=(1, 2, 3),
        backbone=ResNet(depth=18),
        neck=FPN(channels=8),
        cascade=Cascade(**values),
        semantic=semantic,
    )


def random_state(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """Our state dict with values that tell every row of every tensor apart; running statistics and counters
    included.
    """
    with torch.device("meta"):
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in Detector(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    floats = {
        name: torch.rand(shape, generator=generator)
        for name, (shape, dtype) in shapes.items()
        if dtype.is_floating_point
    }
    return {
        name: floats[name] if name in floats else torch.zeros(shape, dtype=dtype)
        for name, (shape, dtype) in shapes.items()
    }


def as_v2(state: dict[str, Tensor], *, one_stage: bool = False) -> dict[str, Tensor]:
    """The names of mmdetection 2 and 3; Mask R-CNN has no stage index."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in (*(_GUIDED if "rpn.location.weight" in state else ()), *_THEIRS):
            name = re.sub(pattern, replacement, name)
        if name.endswith("shared_fcs.0.weight"):  # theirs reads RoI features as (C, 7, 7), ours as (7, 7, C)
            tensor = tensor.view(len(tensor), 7, 7, -1).permute(0, 3, 1, 2).flatten(1)
        renamed[re.sub(r"(bbox|mask)_head\.0\.", r"\1_head.", name) if one_stage else name] = tensor
    return renamed


def as_v1(state: dict[str, Tensor], *, one_stage: bool = False) -> dict[str, Tensor]:
    """2019: no `roi_head.`, background row first, an unused first mask row, `conv_res` also in the first mask head,
    no counters.
    """
    old: dict[str, Tensor] = {}
    for name, tensor in as_v2(state, one_stage=one_stage).items():
        name = name.removeprefix("roi_head.").replace(".conv2.conv_offset.", ".conv2_offset.")
        if ".fc_cls." in name:
            old[name] = torch.cat([tensor[-1:], tensor[:-1]])
        elif "mask_head" in name and ".conv_logits." in name:
            old[name] = torch.cat([torch.full_like(tensor[:1], 99.0), tensor])
        elif ".fc_reg." in name and tensor.shape[0] > 4:
            old[name] = torch.cat([torch.full_like(tensor[:4], 99.0), tensor])
        elif not name.endswith("num_batches_tracked"):
            old[name] = tensor
    if "mask_head.1.conv_res.conv.weight" in old:
        for leaf in ("weight", "bias"):
            old[f"mask_head.0.conv_res.conv.{leaf}"] = old[f"mask_head.1.conv_res.conv.{leaf}"] + 1
    return old


def save_v2(path: Path, weights: dict[str, Tensor], config_text: str = "", classes: tuple[str, ...] = CLASSES) -> Path:
    """A file as the zoo of 2020 ships it."""
    meta = {"mmdet_version": "2.0.0", "CLASSES": classes, "config": config_text, "epoch": 12}
    torch.save({"meta": meta, "state_dict": OrderedDict(weights)}, path)
    return path


def save_v1(path: Path, weights: dict[str, Tensor], config_text: str = "", classes: tuple[str, ...] = CLASSES) -> Path:
    """A file of 2019: torch's serialisation before zip archives."""
    meta = {"mmdet_version": "1.0rc0", "CLASSES": classes, "config": config_text, "epoch": 20, "iter": 1}
    torch.save({"meta": meta, "state_dict": OrderedDict(weights)}, path, _use_new_zipfile_serialization=False)
    return path


def save_v3(path: Path, weights: dict[str, Tensor], config_text: str = "") -> Path:
    """A training checkpoint of a v3 user: message hub, history buffers, optimizer; the foreign package is gone
    afterwards.
    """
    import numpy as np

    with ForeignPackage("mmengine.logging.history_buffer", "HistoryBuffer") as buffer_class:
        history = buffer_class()
        history.__dict__.update(
            _log_history=np.arange(5.0), _max_length=np.int64(7), statistics_methods={"mean": buffer_class.mean}
        )
        content = {
            "meta": {
                "mmengine_version": "0.10.0",
                "dataset_meta": {"classes": CLASSES, "palette": [(1, 2, 3)]},
                "cfg": config_text,
                "experiment_name": "mine",
            },
            "state_dict": OrderedDict(weights),
            "message_hub": {"log_scalars": OrderedDict(loss=history), "resumed_keys": {"loss": True}},
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
        }
        torch.save(content, path)
    return path


class ForeignPackage:
    """For the time of a `with`, a package with one class that pickles can name; the class has a method `mean`."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        parts = module.split(".")
        self.modules = [".".join(parts[: count + 1]) for count in range(len(parts))]

    def __enter__(self) -> Any:
        def mean(self: Any) -> float:
            return 0.0

        mean.__module__, mean.__qualname__ = self.module, f"{self.name}.mean"
        made = type(self.name, (), {"mean": mean, "__module__": self.module, "__qualname__": self.name})
        for module in self.modules:
            sys.modules[module] = types.ModuleType(module)
        setattr(sys.modules[self.module], self.name, made)
        return made

    def __exit__(self, *_: object) -> None:
        for module in self.modules:
            sys.modules.pop(module, None)
