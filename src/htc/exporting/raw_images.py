"""An ONNX file that takes an image as it is: resizing, normalization and padding before the network, and boxes in the
image's pixels after it.

The image is resized as OpenCV does it for bytes, bit for bit: positions in float64, weights in 2048ths, sums of
integers that are cut as its vector instructions cut them.
"""

from collections.abc import Sequence
from pathlib import Path

from htc.config import Input

IR_VERSION, OPSET = 10, 20
PREPARE = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
prepare (uint8[height, width, 3] image)
  => (float[1, 3, rows, columns] prepared, int64[1, 2] extents, double[4] to_original, double[4] limits)
<
  double[2] edges = {{{long_edge}, {short_edge}}}, double[1] most = {{{max_scale}}}, double half = {{0.5}},
  float zero = {{0}}, float one = {{1}}, float unit = {{2048}}, float[3] mean = {{{mean}}}, float[3] std = {{{std}}},
  int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] third = {{2}},
  int64 start = {{0}}, int64 step = {{1}}, int64[2] divisor = {{{divisor}}}, int64[2] below = {{{divisor_less_one}}},
  int64[6] nothing = {{0, 0, 0, 0, 0, 0}}, int64[3] line = {{1, -1, 1}}, int64[3] column = {{-1, 1, 1}},
  int32 cut = {{16}}, int32 word = {{65536}}, int32 two = {{2}}, int32 four = {{4}}
>
{{
  whole = Shape(image)
  given = Slice(whole, first, third, first)
  sides = Cast <to: int = 11> (given)
  longest = ReduceMax <keepdims: int = 1> (sides)
  shortest = ReduceMin <keepdims: int = 1> (sides)
  extremes = Concat <axis: int = 0> (longest, shortest)
  fits = Div(edges, extremes)
  fit = ReduceMin <keepdims: int = 1> (fits)
  scale = Min(fit, most)
  scaled = Mul(sides, scale)
  rounded = Add(scaled, half)
  whole_size = Cast <to: int = 7> (rounded)
  size = Max(whole_size, second)
  target = Cast <to: int = 11> (size)
  ratio = Div(sides, target)
{down}
{across}
  x_negative = Less(x_low, zero)
  x_end = Gather(given, second)
  x_last = Sub(x_end, second)
  x_at_end = GreaterOrEqual(x_cell, x_last)
  x_outside = Or(x_negative, x_at_end)
  x_share = Where(x_outside, zero, x_rest)
{y_weights}
{x_weights}
  pixels = Cast <to: int = 6> (image)
  left = Gather <axis: int = 1> (pixels, x_here)
  right = Gather <axis: int = 1> (pixels, x_next)
  x_first_line = Reshape(x_first, line)
  x_second_line = Reshape(x_second, line)
  left_part = Mul(left, x_first_line)
  right_part = Mul(right, x_second_line)
  lines = Add(left_part, right_part)
  short_lines = Div(lines, cut)
  upper = Gather <axis: int = 0> (short_lines, y_here)
  lower = Gather <axis: int = 0> (short_lines, y_next)
  y_first_column = Reshape(y_first, column)
  y_second_column = Reshape(y_second, column)
  upper_product = Mul(upper, y_first_column)
  lower_product = Mul(lower, y_second_column)
  upper_part = Div(upper_product, word)
  lower_part = Div(lower_product, word)
  parts = Add(upper_part, lower_part)
  sum = Add(parts, two)
  resized = Div(sum, four)
  values = Cast <to: int = 1> (resized)
  centered = Sub(values, mean)
  normalized = Div(centered, std)
  planes = Transpose <perm: ints = [2, 0, 1]> (normalized)
  single = Unsqueeze(planes, first)
{padded}
  free = Sub(padded_size, size)
  padding = Concat <axis: int = 0> (nothing, free)
  prepared = Pad <mode: string = "{padding}"> (single, padding)
  extents = Unsqueeze(size, first)
  width_ratio = Gather(ratio, second)
  height_ratio = Gather(ratio, first)
  to_original = Concat <axis: int = 0> (width_ratio, height_ratio, width_ratio, height_ratio)
  width_limit = Gather(sides, second)
  height_limit = Gather(sides, first)
  limits = Concat <axis: int = 0> (width_limit, height_limit, width_limit, height_limit)
}}
"""
POSITIONS = """
  {axis}_count = Gather(size, {index})
  {axis}_total = Squeeze({axis}_count)
  {axis}_range = Range(start, {axis}_total, step)
  {axis}_index = Cast <to: int = 11> ({axis}_range)
  {axis}_center = Add({axis}_index, half)
  {axis}_ratio = Gather(ratio, {index})
  {axis}_there = Mul({axis}_center, {axis}_ratio)
  {axis}_exact = Sub({axis}_there, half)
  {axis}_position = Cast <to: int = 1> ({axis}_exact)
  {axis}_low = Floor({axis}_position)
  {axis}_rest = Sub({axis}_position, {axis}_low)
  {axis}_cell = Cast <to: int = 7> ({axis}_low)
  {axis}_side = Gather(given, {index})
  {axis}_most = Sub({axis}_side, second)
  {axis}_after = Add({axis}_cell, second)
  {axis}_here_low = Max({axis}_cell, first)
  {axis}_here = Min({axis}_here_low, {axis}_most)
  {axis}_next_low = Max({axis}_after, first)
  {axis}_next = Min({axis}_next_low, {axis}_most)
"""
"""Of one axis: the two source pixels of each target pixel, and the share of the second."""
WEIGHTS = """
  {axis}_other = Sub(one, {share})
  {axis}_first_exact = Mul({axis}_other, unit)
  {axis}_second_exact = Mul({share}, unit)
  {axis}_first_round = Round({axis}_first_exact)
  {axis}_second_round = Round({axis}_second_exact)
  {axis}_first = Cast <to: int = 6> ({axis}_first_round)
  {axis}_second = Cast <to: int = 6> ({axis}_second_round)
"""
MULTIPLE = """
  more = Add(size, below)
  multiples = Div(more, divisor)
  padded_size = Mul(multiples, divisor)
"""
FIXED = "  padded_size = Constant <value_ints: ints = [{height}, {width}]> ()"
FINISH = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
finish (float[1, count, 4] network_boxes, double[4] factors, double[4] most_there) => (float[1, count, 4] boxes)
< double nowhere = {{0}} >
{{
  exact = Cast <to: int = 11> (network_boxes)
  in_image = Mul(exact, factors)
  inside = Max(in_image, nowhere)
  cut_off = Min(inside, most_there)
  boxes = Cast <to: int = 1> (cut_off)
}}
"""


def with_raw_images(path: Path, settings: Input, size: tuple[int, int] | None, outputs: Sequence[str]) -> None:
    """Put the preparation of an image before, and its pixels after, the network in an ONNX file; `outputs` are kept."""
    import onnx
    from onnx import compose

    network = onnx.load(path, load_external_data=False)
    for node in network.graph.node:
        node.output[:] = ["network_boxes" if name == "boxes" else name for name in node.output]
        node.input[:] = ["network_boxes" if name == "boxes" else name for name in node.input]
    for value in network.graph.output:
        if value.name == "boxes":
            value.name = "network_boxes"
    kept = ["network_boxes" if name == "boxes" else name for name in outputs]
    metadata = {one.key: one.value for one in network.metadata_props}
    del network.metadata_props[:]
    first, last = (
        compose.add_prefix(onnx.parser.parse_model(text), "raw.", rename_inputs=False, rename_outputs=False)
        for text in (preparation(settings, size), FINISH.format(ir=IR_VERSION, opset=OPSET))
    )
    before = compose.merge_models(
        first,
        network,
        io_map=[("prepared", "images"), ("extents", "sizes")],
        outputs=[*kept, "to_original", "limits"],
    )
    after = compose.merge_models(
        before,
        last,
        io_map=[("network_boxes", "network_boxes"), ("to_original", "factors"), ("limits", "most_there")],
        outputs=["boxes", *(name for name in kept if name != "network_boxes")],
    )
    onnx.helper.set_model_props(after, metadata)
    path.write_bytes(after.SerializeToString())


def preparation(settings: Input, size: tuple[int, int] | None) -> str:
    """The graph from an image to the network input, in ONNX's text form."""
    listed = {name: ", ".join(map(str, getattr(settings, name))) for name in ("mean", "std")}
    axes = {"down": ("y", "first"), "across": ("x", "second")}
    divisor = settings.divisor
    return PREPARE.format(
        ir=IR_VERSION,
        opset=OPSET,
        long_edge=settings.long_edge,
        short_edge=settings.short_edge,
        max_scale=1e9 if settings.max_scale is None else settings.max_scale,
        divisor=f"{divisor}, {divisor}",
        divisor_less_one=f"{divisor - 1}, {divisor - 1}",
        padding="edge" if settings.padding == "edge" else "constant",
        padded=MULTIPLE if size is None else FIXED.format(height=size[0], width=size[1]),
        y_weights=WEIGHTS.format(axis="y", share="y_rest"),
        x_weights=WEIGHTS.format(axis="x", share="x_share"),
        **listed,
        **{name: POSITIONS.format(axis=axis, index=index) for name, (axis, index) in axes.items()},
    )
