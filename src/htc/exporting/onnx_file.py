"""ONNX files: the traced program in ONNX's operators, with the description of the model in the metadata."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchvision  # noqa: F401 - registers the operators that are translated
from torch.export import ExportedProgram

from htc.errors import ExportError, OutputError
from htc.exporting.graph import cause
from htc.extras import require
from htc.inference.runtimes import INPUTS, OUTPUTS

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20
EMBEDDED_BYTES = 1 << 30
"""Weights larger than this go to a second file, FILE.data: one file can hold at most 2 GiB."""


def translate(program: ExportedProgram, names: Sequence[str]) -> "ONNXProgram":
    """Translate a traced program to ONNX; `names` are those of its outputs. Raises `ExportError`."""
    require("export", "export", ("onnx", "onnxscript"))
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=_translations(),
                input_names=list(INPUTS),
                output_names=list(names),
                optimize=False,
                verbose=False,
            )
        except Exception as error:  # an operator that ONNX does not have, or a fault of the exporter
            raise ExportError(f"torch.onnx cannot translate this model: {cause(error)}") from error
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    assert translated is not None
    _tidy(translated)
    return translated


def _tidy(translated: "ONNXProgram") -> None:
    """Compute constants, and remove what is unused or there twice. The runtimes fuse operators themselves; torch's own
    optimizer, which does too, takes as long as tracing and translation together.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.fold_constants(translated.model, onnx_shape_inference=False)
    for step in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.DeduplicateInitializersPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        step(translated.model)


def write_onnx(translated: "ONNXProgram", path: Path, metadata: Mapping[str, str], *, parts: bool = False) -> None:
    """Write a translated program, without the outputs of the parts unless `parts`; raises `OutputError`.

    Large weights are written to a second file beside it.
    """
    graph = translated.model.graph
    whole = list(graph.outputs)
    translated.model.metadata_props.update(metadata)
    weights = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    if not parts:
        graph.outputs[:] = [value for value in whole if value.name in OUTPUTS]
    try:
        translated.save(path, external_data=weights > EMBEDDED_BYTES)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}: choose another path") from error
    finally:
        graph.outputs[:] = whole


def _translations() -> dict[Any, Any]:
    """ONNX's form of the operators that torch's exporter does not know or translates wrongly."""
    import onnxscript

    op: Any = onnxscript.opset20

    def surviving(boxes: Any, scores: Any, threshold: float, most: int) -> Any:
        picks = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[most]),
            op.Constant(value_floats=[threshold]),
            op.Constant(value_floats=[0.0]),
        )
        one = op.CastLike(op.Constant(value_float=1.0), scores)
        ones = op.Expand(one, op.Gather(op.Shape(picks), op.Constant(value_ints=[0])))
        kept = op.ScatterND(op.Sub(scores, scores), picks, ones)
        return op.Greater(kept, op.CastLike(op.Constant(value_float=0.0), scores))

    def roi_align(
        features: Any,
        rois: Any,
        spatial_scale: float,
        pooled_height: int,
        pooled_width: int,
        sampling_ratio: int = -1,
        aligned: bool = False,
    ) -> Any:
        image = op.Squeeze(op.Slice(rois, [0], [1], [1]), [1])
        return op.RoiAlign(
            features,
            op.Slice(rois, [1], [5], [1]),
            op.Cast(image, to=7),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            spatial_scale=spatial_scale,
            output_height=pooled_height,
            output_width=pooled_width,
            sampling_ratio=max(sampling_ratio, 0),  # torchvision's -1 is ONNX's 0: as many as the box is large
        )

    return {torch.ops.htc.surviving.default: surviving, torch.ops.torchvision.roi_align.default: roi_align}
