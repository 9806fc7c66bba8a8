"""OpenVINO files: an ONNX file converted to OpenVINO's format, an .xml with the operators and a .bin with the weights.

OpenVINO reads no deformable convolution from ONNX, so that one is written as bilinear samples and a plain convolution.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.export import ExportedProgram

from htc.checkpoint.exported import DESCRIPTION
from htc.errors import ExportError, OutputError
from htc.extras import require

FACTS = "htc_facts"
"""Where the facts for programs without this library are in the metadata (`rt_info`)."""


def sampled_deform_conv2d(
    x: Float[Tensor, "N C H W"],
    weight: Float[Tensor, "O c kh kw"],
    offset: Float[Tensor, "N offsets h w"],
    mask: Float[Tensor, "N taps h w"],
    bias: Float[Tensor, " O"],
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Float[Tensor, "N O h w"]:
    """torchvision's deformable convolution as `grid_sample` and a 1x1 convolution, with the same arguments."""
    rows, columns = weight.shape[2:]
    taps = rows * columns
    height, width = offset.shape[2:]
    down = torch.arange(height, device=x.device)[:, None] * stride_h - pad_h
    across = torch.arange(width, device=x.device)[None] * stride_w - pad_w
    tap = torch.arange(taps, device=x.device)[:, None, None]
    row = (tap // columns) * dilation_h + down  # (taps, h, 1)
    column = (tap % columns) * dilation_w + across  # (taps, 1, w)
    moves = offset.unflatten(1, (offset_groups, taps, 2))
    extent = torch.stack([torch.full((), side, dtype=x.dtype, device=x.device) for side in (x.shape[3], x.shape[2])])
    sampled = []
    for group, features in enumerate(x.chunk(offset_groups, 1)):
        position = torch.stack([column + moves[:, group, :, 1], row + moves[:, group, :, 0]], -1)  # (N, taps, h, w, 2)
        grid = (2 * position + 1) / extent - 1
        values = F.grid_sample(features, grid.flatten(1, 2), "bilinear", "zeros", align_corners=False)
        values = values.unflatten(2, (taps, -1))  # (N, C / offset_groups, taps, h, w)
        if use_mask:
            values = values * mask.unflatten(1, (offset_groups, taps))[:, None, group]
        sampled.append(values)
    columns_of = torch.cat(sampled, 1).flatten(1, 2)
    return F.conv2d(columns_of, weight.flatten(1)[..., None, None], bias, groups=groups)


def without_deform_conv2d(program: ExportedProgram) -> ExportedProgram:
    """Replace deformable convolutions in a traced program."""
    operator = torch.ops.torchvision.deform_conv2d.default
    if not any(node.target is operator for node in program.graph.nodes):
        return program
    return program.run_decompositions({operator: sampled_deform_conv2d})


def write_openvino(onnx_file: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Convert an ONNX file, with the description of the model in the file; raises `ExportError` and `OutputError`."""
    require("export", "export to OpenVINO", ("openvino",))
    import openvino

    try:
        model = openvino.convert_model(onnx_file)
    except Exception as error:  # an operator that OpenVINO does not have
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(f"OpenVINO cannot convert this model: {lines[-1] if lines else error}") from error
    for name, value in metadata.items():
        model.set_rt_info(value, name if name == DESCRIPTION else [FACTS, name])
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OutputError(f"cannot write {path}: {error}: choose another path") from error
