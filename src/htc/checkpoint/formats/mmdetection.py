"""Checkpoints of the original implementation, mmdetection 1 (2019), 2 and 3, onto our names and row order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from htc.checkpoint.formats.mmdetection_config import read_config_facts
from htc.checkpoint.formats.mmdetection_names import our_name, reason_to_drop
from htc.checkpoint.formats.mmdetection_text import read_config_text
from htc.checkpoint.formats.told import Colours
from htc.checkpoint.formats.upgraded import Upgraded, background_last, pixel_major, rgb_stem
from htc.checkpoint.stored import Stored, entries, read_stored
from htc.checkpoint.structure import GUIDED
from htc.errors import CheckpointError

V1_NOTE = (
    "a file of 2019: its boxes were trained with width = x2 - x1 + 1; converted onto today's geometry, it "
    "may lose "
    "up to 1 AP"
)

GUIDED_NOTE = (
    "guided anchoring of 2020 or later was trained with objects' centres as background: "
    "`rpn.location_threshold` may "
    "hide objects; if it does, set it to 0"
)


def read_mmdetection(path: Path) -> Upgraded:
    """Load a `.pth` of the original without running any of it; raises `CheckpointError` as `read_stored` and
    `upgrade_mmdetection` do.
    """
    return upgrade_mmdetection(read_stored(path))


def upgrade_mmdetection(stored: Stored, colours: Colours | None = None) -> Upgraded:
    """A file of the original under our names. `colours`: the order that its network reads, as told by the user where no
    text inside says it.

    Raises `CheckpointError` for files of another architecture, or that a configuration text inside declares unsupported
    (other backbones, other detectors).
    """
    meta = _meta(stored.content)
    kept = {name: tensor for name, tensor in stored.tensors.items() if reason_to_drop(name) is None}
    upgraded = _upgrade(stored.path, kept, meta, colours)
    upgraded.dropped[:0] = [(stored.names[name], reason) for name in stored.tensors if (reason := reason_to_drop(name))]
    if upgraded.facts.refusals:
        raise CheckpointError(f"{stored.path}: not supported: " + "; ".join(upgraded.facts.refusals))
    return upgraded


def _meta(content: Any) -> Mapping[Any, Any]:
    return entries(entries(content).get("meta"))


def _classes(meta: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Class names: `CLASSES` (mmdetection 1, 2) or `dataset_meta` (3)."""
    dataset = entries(meta.get("dataset_meta"))
    for names in (meta.get("CLASSES"), dataset.get("classes"), dataset.get("CLASSES")):
        if isinstance(names, str):  # `CLASSES = ("cell")`, a forgotten comma
            names = (names,)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple("".join(letter for letter in name if letter.isprintable()) for name in names)
    return None


def _upgrade(path: Path, state: dict[str, Tensor], meta: Mapping[Any, Any], colours: Colours | None) -> Upgraded:
    version = _version(path, state, meta)
    text = next((value for key in ("config", "cfg") if isinstance(value := meta.get(key), str)), "")
    experiment = meta.get("exp_name") or meta.get("experiment_name")
    name = Path(experiment).name.removesuffix(".py") if isinstance(experiment, str) else None
    result = Upgraded(version, {}, _classes(meta), read_config_facts(read_config_text(text)), name)
    for theirs, tensor in state.items():
        ours = our_name(theirs)
        result.put(path, theirs, ours, tensor)
    if version == 1:
        result.notes.append(V1_NOTE)
        _reorder_2019(path, result)
    elif GUIDED in result.weights:
        result.notes.append(GUIDED_NOTE)
    if result.facts.bgr is not None and colours is not None and result.facts.bgr != (colours == "bgr"):
        raise CheckpointError(f"{path}: the configuration inside says otherwise than --colours {colours}: leave it out")
    if result.facts.bgr or colours == "bgr":
        rgb_stem(result)
    pixel_major(result)
    result.notes.extend(result.facts.notes)
    return result


def _version(path: Path, state: Mapping[str, Any], meta: Mapping[Any, Any]) -> int:
    if any(name.startswith("roi_head.") for name in state):
        return 3 if "mmengine_version" in meta or "dataset_meta" in meta or "cfg" in meta else 2
    if any(name.startswith(("bbox_head.", "mask_head.")) for name in state):
        return 1
    tops = sorted({name.split(".")[0] for name in state})
    hint = "; it looks like a classification backbone" if "fc" in tops and "layer1" in tops else ""
    raise CheckpointError(
        f"{path}: no Mask R-CNN, Cascade Mask R-CNN or HTC of the original: it has {', '.join(tops[:8])} and no "
        f"roi_head{hint}"
    )


def _reorder_2019(path: Path, result: Upgraded) -> None:
    """mmdetection 1 had the background first: class rows roll by one, masks and class-specific boxes lose their
    unused first class.
    """
    stages = sorted(
        name.removesuffix("classify.weight") for name in result.weights if name.endswith(".classify.weight")
    )
    for stage in stages:
        rows = result.weights[f"{stage}classify.weight"].shape[0]
        masks = stage.replace("box_heads", "mask_heads")
        for leaf in ("weight", "bias"):
            result.change(f"{stage}classify.{leaf}", "background row moved from first to last", background_last)
            deltas = result.weights.get(f"{stage}regress.{leaf}")
            if deltas is not None and deltas.shape[0] == 4 * rows and rows > 1:
                result.change(
                    f"{stage}regress.{leaf}", "the background's four unused rows dropped", lambda tensor: tensor[4:]
                )
            logits = result.weights.get(f"{masks}logits.{leaf}")
            if logits is None:
                continue
            if logits.shape[0] != rows:
                raise CheckpointError(
                    f"{path}: a file of 2019 has {rows} mask rows (classes and background), this one "
                    f"{logits.shape[0]}: not supported"
                )
            result.change(
                f"{masks}logits.{leaf}", "the background's unused first row dropped", lambda tensor: tensor[1:]
            )
