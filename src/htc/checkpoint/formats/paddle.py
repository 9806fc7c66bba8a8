"""Convert checkpoints of the Paddle reproduction of HTC (a port to PaddleDetection)."""

import re
from collections.abc import Iterable

from htc.checkpoint.formats.base import ConvertedWeights, pixel_major, rename
from htc.checkpoint.formats.mmdetection_config import ConfigFacts
from htc.checkpoint.stored import Stored
from htc.errors import CheckpointError

_BLOCK = re.compile(r"^backbone\.res(\d)\.res\d([a-z])(\d*)\.")
"""Blocks are named by letters; in deep stages, blocks from the second on are numbered (b1, b2, ...)."""
_RULES = (
    (r"^backbone\.conv1\.conv1\.conv\.", "backbone.conv1."),
    (r"^backbone\.conv1\.conv1\.norm\.", "backbone.bn1."),
    *((rf"^(backbone\.layer\d\.\d+)\.branch2{letter}\.conv\.", rf"\1.conv{n}.") for n, letter in enumerate("abc", 1)),
    *((rf"^(backbone\.layer\d\.\d+)\.branch2{letter}\.norm\.", rf"\1.bn{n}.") for n, letter in enumerate("abc", 1)),
    (r"^(backbone\.layer\d\.\d+)\.short\.conv\.", r"\1.downsample.0."),
    (r"^(backbone\.layer\d\.\d+)\.short\.norm\.", r"\1.downsample.1."),
    (r"^neck\.lateral_convs\.", "neck.lateral."),
    (r"^neck\.fpn_convs\.", "neck.output."),
    (r"^rpn_head\.rpn_feat\.rpn_conv\.", "rpn.conv."),
    (r"^rpn_head\.rpn_rois_score\.", "rpn.objectness."),
    (r"^rpn_head\.rpn_rois_delta\.", "rpn.deltas."),
    (r"^bbox_head\.head\.(\d)\.fc6\.", r"roi.box_heads.\1.fc.0."),
    (r"^bbox_head\.head\.(\d)\.fc7\.", r"roi.box_heads.\1.fc.1."),
    (r"^bbox_head\.bbox_score_stage(\d)\.", r"roi.box_heads.\1.classify."),
    (r"^bbox_head\.bbox_delta_stage(\d)\.", r"roi.box_heads.\1.regress."),
    *((rf"^bbox_head\.mask_head\.head\.{n}\.conv_res\.", f"roi.mask_flows.{n - 1}.") for n in (1, 2)),
    (r"^bbox_head\.mask_head\.head\.(\d)\.conv_logits\.", r"roi.mask_heads.\1.logits."),
    (r"^bbox_head\.mask_head\.head\.(\d)\.", r"roi.mask_heads.\1."),
    (r"^fused_semantic_head\.lateral_convs\.", "semantic.lateral."),
    (r"^fused_semantic_head\.convs\.", "semantic.convs."),
    (r"^fused_semantic_head\.conv_logits\.", "semantic.logits."),
    (r"^fused_semantic_head\.conv_embedding\.", "semantic.embedding.conv."),
)
_STATISTICS = (("._mean", ".running_mean"), ("._variance", ".running_var"))
_LINEAR = re.compile(r"^roi\.box_heads\.\d\.(fc\.\d|classify|regress)\.weight$")
_MASK_LOGITS = re.compile(r"^roi\.mask_heads\.\d\.logits\.(weight|bias)$")
MASK_ROWS = 80
DELTA_STDS = tuple((1 / weight, 1 / weight, 2 / weight, 2 / weight) for weight in (10, 20, 30))


def is_paddle(names: Iterable[str]) -> bool:
    """Return whether a state dict has the names of PaddleDetection's two-stage detectors."""
    return any(name.startswith("rpn_head.rpn_rois_score.") for name in names)


def read_paddle(stored: Stored) -> ConvertedWeights:
    """Convert a checkpoint of the reproduction. Paddle's linear layers are (in, out), so they are transposed;
    background is last, as here.
    """
    if not any(name.startswith("bbox_head.bbox_score_stage") for name in stored.tensors):
        raise CheckpointError(
            f"{stored.path}: of PaddleDetection's models, only the reproduction of HTC is supported "
            f"(bbox_head.bbox_score_stage0, ...)"
        )
    result = ConvertedWeights(None, {}, None, ConfigFacts({"cascade.delta_stds": DELTA_STDS}), None)
    for theirs, tensor in stored.tensors.items():
        result.put(stored.path, theirs, our_paddle_name(theirs), tensor)
    for name in [name for name in result.weights if _LINEAR.match(name)]:
        if result.weights[name].dim() == 2:
            result.change(name, "transposed: Paddle has (in, out)", lambda weight: weight.T)
    pixel_major(result)
    _own_masks(result)
    return result


def _own_masks(result: ConvertedWeights) -> None:
    """Drop unused mask rows: its mask heads always have 80 rows, for any number of classes."""
    classes = len(result.weights.get("roi.box_heads.0.classify.bias", ())) - 1
    for name in [name for name in result.weights if _MASK_LOGITS.match(name)]:
        if 0 < classes < len(result.weights[name]) == MASK_ROWS:
            result.change(name, f"unused rows beyond its {classes} classes dropped", lambda rows: rows[:classes])


def our_paddle_name(name: str) -> str:
    """Return our name for a parameter of the reproduction; unknown names are returned unchanged."""
    plain = _BLOCK.sub(
        lambda match: f"backbone.layer{int(match[1]) - 1}.{int(match[3]) if match[3] else ord(match[2]) - ord('a')}.",
        name,
    )
    plain = rename(plain, _RULES)
    for theirs, ours in _STATISTICS:
        if plain.startswith("backbone.") and plain.endswith(theirs):
            return plain.removesuffix(theirs) + ours
    return plain
