"""Checkpoints of the original implementation, mmdetection 1 (2019), 2 and 3, onto our names and row order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htc.checkpoint.config_facts import ConfigFacts, read_config_facts
from htc.checkpoint.config_text import read_config_text
from htc.checkpoint.naming import our_name, reason_to_drop
from htc.checkpoint.rebuild import Foreign, TensorReference
from htc.checkpoint.structure import GUIDED
from htc.checkpoint.torch_file import TorchFile, open_torch_file
from htc.errors import CheckpointError
from htc.model.heads import BOX_BINS

V1_NOTE = "a file of 2019: its boxes were trained with width = x2 - x1 + 1; converted onto today's geometry, it may lose up to 1 AP"

GUIDED_NOTE = (
    "guided anchoring of 2020 or later was trained with objects' centres as background: `rpn.location_threshold` may hide objects; if it does, set it to 0"
)


@dataclass
class Upgraded:
    """A file's weights under our names, in our row order, with what was done on the way."""

    version: int
    """1, 2 or 3: the generation of mmdetection."""
    weights: dict[str, Tensor]
    classes: tuple[str, ...] | None
    facts: ConfigFacts
    experiment: str | None
    """The name of the configuration it was trained with, where the file tells."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Our name -> the file's."""
    reordered: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_mmdetection(path: Path) -> Upgraded:
    """Load a `.pth` of the original without running any of it.

    Raises `CheckpointError` for files that are damaged, refused, of another architecture, or that a configuration text inside
    declares unsupported (caffe backbones, other detectors).
    """
    file = open_torch_file(path)
    found, dropped = _state(file)
    meta = _meta(file.content)
    # A whole pickled value would be a Foreign: only plain tensors are weights.
    wrong = [name for name, value in found.items() if not isinstance(value, TensorReference)]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]!r} in its state_dict is no tensor; this is not a plain checkpoint")
    upgraded = _upgrade(path, file.tensors(found), meta)
    upgraded.dropped[:0] = dropped
    if upgraded.facts.refusals:
        raise CheckpointError(f"{path}: not supported: " + "; ".join(upgraded.facts.refusals))
    return upgraded


def _entries(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, Foreign):
        return value.entries
    return value if isinstance(value, Mapping) else {}


def _state(file: TorchFile) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The state dict (the file itself may be one), prefixes of parallel training stripped."""
    content = _entries(file.content)
    if isinstance(file.content, Foreign) and not content:
        raise CheckpointError(f"{file.path}: holds a {file.content.name} object instead of weights; save model.state_dict() in place of the model")
    state = _entries(content.get("state_dict")) or content
    if not any(isinstance(value, TensorReference) for value in state.values()):
        raise CheckpointError(f"{file.path}: no state_dict with tensors in it; this is not a checkpoint of the original")
    found: dict[str, Any] = {}
    dropped: list[tuple[str, str]] = []
    for name in state:
        if not (isinstance(name, str) and name.isprintable()):
            raise CheckpointError(f"{file.path}: a tensor in its state_dict has no readable name; this is not a plain checkpoint")
        reason = reason_to_drop(name.removeprefix("module."))
        if reason:
            dropped.append((name, reason))
        else:
            found[name.removeprefix("module.")] = state[name]
    return found, dropped


def _meta(content: Any) -> Mapping[Any, Any]:
    return _entries(_entries(content).get("meta"))


def _classes(meta: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Class names: `CLASSES` (mmdetection 1, 2) or `dataset_meta` (3)."""
    dataset = _entries(meta.get("dataset_meta"))
    for names in (meta.get("CLASSES"), dataset.get("classes"), dataset.get("CLASSES")):
        if isinstance(names, str):  # `CLASSES = ("cell")`, a forgotten comma
            names = (names,)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple("".join(letter for letter in name if letter.isprintable()) for name in names)
    return None


def _upgrade(path: Path, state: dict[str, Tensor], meta: Mapping[Any, Any]) -> Upgraded:
    version = _version(path, state, meta)
    text = next((value for key in ("config", "cfg") if isinstance(value := meta.get(key), str)), "")
    experiment = meta.get("exp_name") or meta.get("experiment_name")
    name = Path(experiment).name.removesuffix(".py") if isinstance(experiment, str) else None
    result = Upgraded(version, {}, _classes(meta), read_config_facts(read_config_text(text)), name)
    for theirs, tensor in state.items():
        ours = our_name(theirs)
        if ours in result.weights:
            raise CheckpointError(f"{path}: {theirs} and {result.renamed.get(ours, ours)} are the same parameter; the file mixes two versions")
        if not tensor.dim() and tensor.is_floating_point():
            raise CheckpointError(f"{path}: {theirs} is a single number, which no layer has; the file is damaged or of another architecture")
        result.weights[ours] = tensor.float() if tensor.is_floating_point() else tensor
        if ours != theirs:
            result.renamed[ours] = theirs
    if version == 1:
        result.notes.append(V1_NOTE)
        _reorder_2019(path, result)
    elif GUIDED in result.weights:
        result.notes.append(GUIDED_NOTE)
    _pixel_major(result)
    result.notes.extend(result.facts.notes)
    return result


def _version(path: Path, state: Mapping[str, Any], meta: Mapping[Any, Any]) -> int:
    if any(name.startswith("roi_head.") for name in state):
        return 3 if "mmengine_version" in meta or "dataset_meta" in meta or "cfg" in meta else 2
    if any(name.startswith(("bbox_head.", "mask_head.")) for name in state):
        return 1
    tops = sorted({name.split(".")[0] for name in state})
    hint = "; it looks like a classification backbone" if "fc" in tops and "layer1" in tops else ""
    raise CheckpointError(f"{path}: no Mask R-CNN, Cascade Mask R-CNN or HTC of the original: it has {', '.join(tops[:8])} and no roi_head{hint}")


def _reorder_2019(path: Path, result: Upgraded) -> None:
    """mmdetection 1 had the background first: class rows roll by one, masks and class-specific boxes lose their unused first class."""
    stages = sorted(name.removesuffix("classify.weight") for name in result.weights if name.endswith(".classify.weight"))
    for stage in stages:
        rows = result.weights[f"{stage}classify.weight"].shape[0]
        masks = stage.replace("box_heads", "mask_heads")
        for leaf in ("weight", "bias"):
            _change(result, f"{stage}classify.{leaf}", "background row moved from first to last", _background_last)
            deltas = result.weights.get(f"{stage}regress.{leaf}")
            if deltas is not None and deltas.shape[0] == 4 * rows and rows > 1:
                _change(result, f"{stage}regress.{leaf}", "the background's four unused rows dropped", lambda tensor: tensor[4:])
            logits = result.weights.get(f"{masks}logits.{leaf}")
            if logits is None:
                continue
            if logits.shape[0] != rows:
                raise CheckpointError(f"{path}: a file of 2019 has {rows} mask rows (classes and background), this one {logits.shape[0]}: not supported")
            _change(result, f"{masks}logits.{leaf}", "the background's unused first row dropped", lambda tensor: tensor[1:])


def _pixel_major(result: Upgraded) -> None:
    """The original flattens RoI features as (C, 7, 7); our box heads read them as they are pooled, (7, 7, C)."""
    for name in [name for name in result.weights if name.endswith(".fc.0.weight")]:
        if result.weights[name].dim() == 2 and result.weights[name].shape[1] % BOX_BINS**2 == 0:
            _change(result, name, "columns from (C, 7, 7) to (7, 7, C)", lambda w: w.view(len(w), -1, BOX_BINS, BOX_BINS).permute(0, 2, 3, 1).flatten(1))


def _background_last(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[1:], tensor[:1]])


def _change(result: Upgraded, name: str, what: str, change: Any) -> None:
    if name in result.weights:
        result.weights[name] = change(result.weights[name]).contiguous()
        result.reordered.append((name, what))
