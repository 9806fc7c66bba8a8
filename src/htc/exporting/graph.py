"""The detector as one program of `torch.export`: network input to detections, with the outputs of its parts.

The program has no shape that depends on values: every slot of proposals and detections is computed, and `valid` marks
the filled ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from htc.config import Config
from htc.errors import ExportError, HTCError
from htc.exporting.target import STRIDE
from htc.inference.runtimes import INPUTS, OUTPUTS
from htc.model.detector import Detector
from htc.model.postprocess import Limits

PARTS = ("trunk", "RPN", "refine", "select", "segment")
"""Parts of the detector in the order in which they run."""
EXAMPLE = (128, 160)
"""(height, width) of the input that the program is traced with; neither is a size of a map of another level."""


@dataclass(frozen=True)
class InputShape:
    """Shape of the network input of a program; None: any."""

    batch: int | None = None
    size: tuple[int, int] | None = None
    """(height, width), multiples of `STRIDE`."""


class DetectorGraph(nn.Module):
    """The steps of a detector in one forward, with the lowest score of each class as an input.

    Returns the fields of `RawDetections`, then the outputs of the parts in the order of `part_names`.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        sizes: Int[Tensor, "B 2"],
        thresholds: Float[Tensor, " K"],
    ) -> tuple[Tensor, ...]:
        """-> boxes, scores, labels, valid, masks, then the outputs of the parts"""
        detector = self.detector
        features = detector.features(images)
        proposals, objectness = detector.propose(features, sizes)
        stages = detector.refine(features, proposals)
        selected = detector.select(stages, Limits(class_thresholds=thresholds))
        masks = detector.segment(features, selected.rois, selected.labels)
        semantic = () if features.semantic is None else (features.semantic,)
        return (
            *(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, masks),
            *(*features.pyramid, *semantic),
            *(proposals.boxes, objectness * proposals.valid),
            *(value for stage in stages for value in (stage.class_logits, stage.refined.boxes)),
        )


def part_names(config: Config) -> tuple[str, ...]:
    """Names of the outputs of the parts before the detections: "trunk.P2", "refine.logits_1" ..."""
    semantic = () if config.cascade.semantic_fusion == "none" else ("trunk.semantic",)
    stages = range(1, config.cascade.num_stages + 1)
    return (
        *(*(f"trunk.P{level}" for level in range(2, 7)), *semantic),
        *("RPN.boxes", "RPN.objectness"),
        *(f"refine.{kind}_{stage}" for stage in stages for kind in ("logits", "boxes")),
    )


def output_names(config: Config) -> tuple[str, ...]:
    """Names of all outputs of a `DetectorGraph`."""
    return (*OUTPUTS, *part_names(config))


def trace(detector: Detector, config: Config, shape: InputShape) -> ExportedProgram:
    """Trace the detector, in evaluation mode, as one program; raises `ExportError` with the cause if it cannot be."""
    height, width = shape.size or EXAMPLE
    batch = shape.batch or 2  # a dimension of 1 would become constant
    example = (
        torch.zeros(batch, 3, height, width),
        torch.tensor([[height - 8, width - 10]] * batch),
        torch.full((config.num_classes,), 0.05),
    )
    try:
        with torch.no_grad():
            return torch.export.export(
                DetectorGraph(detector).eval(), example, dynamic_shapes=_dimensions(shape), strict=False
            )
    except HTCError as error:  # a part that explains why it cannot be exported
        raise ExportError(str(error)) from error
    except Exception as error:  # torch.export raises whatever the traced code does
        raise ExportError(f"torch.export cannot trace this model: {cause(error)}") from error


def _dimensions(shape: InputShape) -> Mapping[str, Any]:
    sides: dict[int, Any] = {}
    if shape.size is None:
        sides = {2: STRIDE * Dim("rows", min=2, max=512), 3: STRIDE * Dim("columns", min=2, max=512)}
    images = {0: Dim("batch", min=1, max=1024)} if shape.batch is None else {}
    return dict(zip(INPUTS, ({**images, **sides}, dict(images), {}), strict=True))


def cause(error: BaseException) -> str:
    """The first line of the innermost error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def eager_parts(detector: Detector, config: Config, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of all parts in eager execution, for comparison with those of a file."""
    with torch.inference_mode():
        found = DetectorGraph(detector)(*(inputs[name] for name in INPUTS))
    return dict(zip(output_names(config), found, strict=True))
