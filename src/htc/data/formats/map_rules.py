"""How the label maps of a dataset are read, decided once for all of them from their statistics.

Programs write the same masks in many ways: 0 and 1 or 0 and 255, with smoothed edges or after JPEG compression, with a
white background or -1, with a border of 255 (void) around each instance. `decide` looks at the values of all maps and
returns a rule with the sentence that is printed; `--label-maps` overrules it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Int

from htc.data.formats.map_values import LOSSY, regions
from htc.errors import ConfigError, DataError

Mode = Literal["instances", "components", "classes"]
LARGEST = (255, 65535, 2**31 - 1, 2**32 - 1)
"""Largest values of integer types, which programs use for void or background."""
WHITE, VOC_VOID = 0xFFFFFF, 224 + 256 * 224 + 65536 * 192
"""White, and the color of Pascal VOC's void border, as read from color maps."""
ORDINARY_GAP = 4
"""A largest value is void or background if its distance to the next value is more than this many usual distances."""
BRIGHT = (1, 255, 65535)
"""Values of the foreground in binary masks."""
LEVELS_APART = 64
"""Smallest difference of the two levels of a smoothed binary mask."""
REACH = 9
"""Pixels on either side of an edge that smoothing or JPEG's blocks change."""
FLAT_SHARE = 0.5
"""A smoothed mask has at most this share of its intermediate pixels in squares of 2 x 2 equal pixels."""
MOST_VALUES = 20_000
"""More values than this in one map are smoothed colors, not instances."""
FEW_VALUES = 8
"""Fewer thin values than this may be instances."""
SEVERAL = 0.1
"""A region counts as separate if it has at least this share of the largest region's pixels."""
HELP = "--label-maps instances|components|classes[,background=VALUE][,void=VALUE+VALUE|none]"


@dataclass(frozen=True)
class MapOptions:
    """What the user prescribes about label maps; None: decided from the maps."""

    mode: Mode | None = None
    """`instances`: each value is an instance; `components`: each connected region is one; `classes`: each value is a
    class, and each of its connected regions an instance.
    """
    background: int | None = None
    void: frozenset[int] | None = None
    """Values of pixels without annotation."""


DECIDED = MapOptions()
"""Everything is decided from the maps."""
AUTO = "auto"
"""The text of `DECIDED`."""


def parse_map_options(text: str) -> MapOptions:
    """Parse `auto` or `MODE[,background=VALUE][,void=VALUE+VALUE|none]`; raises `ConfigError`."""
    mode: Mode | None = None
    background: int | None = None
    void: frozenset[int] | None = None
    for part in text.replace(" ", "").split(","):
        key, _, value = part.partition("=")
        if part in get_args(Mode):
            mode = part  # type: ignore[assignment]
        elif key == "background" and re.fullmatch(r"-?\d+", value):
            background = int(value)
        elif key == "void" and (value == "none" or re.fullmatch(r"-?\d+(\+-?\d+)*", value)):
            void = frozenset() if value == "none" else frozenset(int(one) for one in value.split("+"))
        elif part != AUTO:
            raise ConfigError(f"--label-maps {text}: {part!r} is not understood; give auto, or as in {HELP}")
    return MapOptions(mode, background, void)


@dataclass(frozen=True, eq=False)
class MapStatistics:
    """What `decide` needs of one page of a map."""

    file: Path
    kind: Literal["levels", "smooth", "values"]
    """`levels`: at most two values; `smooth`: two levels with values between them along the edges; `values`: others."""
    low: int
    high: int
    """The lower and upper level; of `values` the smallest and the largest value."""
    pixels: Counter[int] = field(repr=False)
    border: Counter[int] = field(repr=False)
    """Pixels of each value, in the whole map and along its border."""
    thin: frozenset[int] = field(repr=False)
    """Values most of whose pixels are outside of squares of 2 x 2 equal pixels."""
    split: frozenset[int] = field(repr=False)
    """Values of several regions of comparable size."""


def statistics_of(file: Path, values: Int[np.ndarray, "H W"]) -> MapStatistics:
    """Statistics of one page. Raises `DataError` if it has too many values."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > MOST_VALUES:
        raise DataError(
            f"{file} contains {len(distinct)} values; a label map has one per instance: save it without smoothing, in "
            f"a lossless format"
        )
    edges = np.concatenate((values[0], values[-1], values[1:-1, 0], values[1:-1, -1]))
    square = _square_pixels(values)
    inside = dict(zip(*(one.tolist() for one in np.unique(values[square], return_counts=True)), strict=True))
    pixels = Counter(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))
    thin = frozenset(value for value, count in pixels.items() if inside.get(value, 0) < FLAT_SHARE * count)
    low, high = int(distinct[0]), int(distinct[-1])
    kind = "levels" if len(distinct) <= 2 else "values"
    split: frozenset[int] = frozenset()
    if kind == "values":
        levels = _levels(values, square, pixels)
        if levels is not None:
            kind, (low, high) = "smooth", levels
        else:
            split = frozenset(value for value, _, found in regions(values, ()) if _several(found))
    return MapStatistics(file, kind, low, high, pixels, Counter(edges.tolist()), thin, split)


def _square_pixels(values: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels in squares of 2 x 2 equal pixels."""
    equal = (
        (values[1:, 1:] == values[:-1, :-1])
        & (values[1:, :-1] == values[:-1, :-1])
        & (values[:-1, 1:] == values[:-1, :-1])
    )
    square = np.zeros(values.shape, bool)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            square[rows, columns] |= equal
    return square


def _levels(
    values: Int[np.ndarray, "H W"], square: Bool[np.ndarray, "H W"], pixels: Counter[int]
) -> tuple[int, int] | None:
    """The two levels of a binary mask with values between them along its edges; None for other maps."""
    middle = (min(pixels) + max(pixels)) / 2
    low = max((value for value in pixels if value <= middle), key=lambda value: pixels[value])
    high = max((value for value in pixels if value > middle), key=lambda value: pixels[value])
    between = (values != low) & (values != high)
    if high - low < LEVELS_APART or not 0 <= low < high <= LARGEST[1]:
        return None
    if np.count_nonzero(between & square) > FLAT_SHARE * np.count_nonzero(between):
        return None
    bright = (values > middle).astype(np.uint8)
    kernel = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    near = cv2.dilate(bright, kernel) != cv2.erode(bright, kernel)
    return (low, high) if np.count_nonzero(between & ~near) <= 0.1 * np.count_nonzero(between) else None


def _several(numbers: Int[np.ndarray, "h w"]) -> bool:
    sizes = np.sort(np.bincount(numbers.reshape(-1))[1:])
    return len(sizes) > 1 and bool(sizes[-2] >= SEVERAL * sizes[-1])


@dataclass(frozen=True)
class MapRule:
    """How all maps of a dataset are read."""

    mode: Mode
    binary: bool
    """Each map has two levels, and `dark` tells which of them is the foreground."""
    dark: bool = False
    background: int | None = 0
    """None: every pixel belongs to an instance."""
    void: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def without(self) -> frozenset[int]:
        """The values that are no instances."""
        return self.void if self.background is None else self.void | {self.background}

    def foreground(self, values: Int[np.ndarray, "H W"], found: MapStatistics) -> Bool[np.ndarray, "H W"]:
        """The foreground of a binary map."""
        low = 0 if found.low == found.high else found.low
        bright = values > (low + found.high) / 2
        return ~bright if self.dark else bright


def decide(maps: Sequence[MapStatistics], options: MapOptions = DECIDED) -> MapRule:
    """Decide how the maps are read. Raises `DataError` that names the maps that cannot be read as label maps."""
    if options.mode in (None, "components") and _is_binary(maps):
        return _binary_rule(maps, options)
    if options.mode is None:
        _check_values(maps)
    background, void = _background_and_void(maps, options)
    labels = {value for one in maps for value in one.pixels} - void - {background}
    mode = options.mode or ("components" if len(labels) == 1 else "instances")
    what = {
        "instances": "each value is an instance",
        "components": "each connected region is an instance, so touching instances of one value are merged",
        "classes": "each value is a class and each connected region of it an instance, so touching instances of a "
        "class are merged",
    }[mode]
    place = "every pixel belongs to an instance" if background is None else f"{_value(background)} is background"
    notes = [
        _decision(f"{what}; {place}{_void_text(maps, void)}", "instances" if mode != "instances" else "components")
    ]
    values = [(one, value) for one in maps for value in one.pixels if value in labels]
    several = sum(value in one.split for one, value in values)
    if mode == "instances" and several * 4 > len(values):
        notes.append(
            f"{several} of {len(values)} instances consist of separate regions: if the values are classes, use "
            f"--label-maps classes; if every region is an instance, use --label-maps components"
        )
    return MapRule(mode, False, False, background, void, tuple(notes))


def _is_binary(maps: Sequence[MapStatistics]) -> bool:
    """Whether all maps have two levels, the upper one being equal in all or one of `BRIGHT`."""
    if any(one.kind == "values" for one in maps):
        return False
    highs = {one.high for one in maps if one.kind == "levels" and one.high > 0}
    return (highs <= {*BRIGHT} or len(highs) == 1) and all(one.low >= 0 for one in maps)


def _binary_rule(maps: Sequence[MapStatistics], options: MapOptions) -> MapRule:
    bright = dark = 0
    for one in maps:
        middle = (one.low + one.high) / 2 if one.low < one.high else 0
        bright += sum(count for value, count in one.border.items() if value > middle)
        dark += sum(count for value, count in one.border.items() if value <= middle)
    inverted = bright > 2 * dark and _bright_share(maps) > 0.5
    if options.background is not None:
        inverted = options.background > 0
    highs = sorted({one.high for one in maps if one.kind == "levels" and one.high > 0})
    smooth = [one for one in maps if one.kind == "smooth"]
    notes = [
        _decision(
            "the maps are binary, so each connected region is one instance: touching instances are merged"
            + ("; the dark pixels are the foreground, since most of every border is bright" if inverted else ""),
            "instances" if not inverted else "components,background=0",
        )
    ]
    if len(highs) > 1:
        notes.append(f"the foreground is {' in some maps and '.join(map(str, highs))} in others")
    if smooth:
        lossy = " (JPEG files)" if any(one.file.suffix.lower() in LOSSY for one in smooth) else ""
        notes.append(
            f"{len(smooth)} of {len(maps)} maps have smoothed or compressed edges{lossy}, such as "
            f"{smooth[0].file.name} with {len(smooth[0].pixels)} gray values; what is above the middle of "
            f"{smooth[0].low} and {smooth[0].high} is the foreground"
        )
    return MapRule("components", True, inverted, notes=tuple(notes))


def _bright_share(maps: Sequence[MapStatistics]) -> float:
    total = sum(sum(one.pixels.values()) for one in maps)
    bright = sum(
        count
        for one in maps
        for value, count in one.pixels.items()
        if value > ((one.low + one.high) / 2 if one.low < one.high else 0)
    )
    return bright / total if total else 0.0


def _check_values(maps: Iterable[MapStatistics]) -> None:
    """Raise `DataError` for maps whose values are those of smoothing or compression."""
    faulty = [
        one
        for one in maps
        if one.kind == "smooth"
        or (one.kind == "values" and one.file.suffix.lower() in LOSSY)
        or (len(one.thin) >= FEW_VALUES and 2 * len(one.thin) > len(one.pixels) and _thin_share(one) < 0.9)
    ]
    if not faulty:
        return
    one = faulty[0]
    others = f" ({len(faulty) - 1} more maps like it)" if len(faulty) > 1 else ""
    what = "JPEG changes the values" if one.file.suffix.lower() in LOSSY else "smoothing or compression adds values"
    raise DataError(
        f"{one.file} has {len(one.pixels)} values, {len(one.thin)} of them in thin lines and dots{others}: {what}, so "
        f"they are not those of instances; save the maps as PNG without smoothing. If they are right, use --label-maps "
        "instances"
    )


def _thin_share(found: MapStatistics) -> float:
    """Share of the pixels with thin values; those that smoothing adds lie between larger regions."""
    return sum(found.pixels[value] for value in found.thin) / found.pixels.total()


def _background_and_void(maps: Sequence[MapStatistics], options: MapOptions) -> tuple[int | None, frozenset[int]]:
    values = {value for one in maps for value in one.pixels}
    border: Counter[int] = sum((one.border for one in maps), Counter())
    special = _special(values)
    candidates = {value for value in (0, WHITE) if value in values} | special
    background = options.background
    if background is None:
        background = max(candidates, key=lambda value: (border[value], value == 0), default=None)
        common = max(border, key=lambda value: border[value])
        if common not in candidates and _surrounds(common, background, border, maps):
            background = common
    void = options.void
    if void is None:
        void = special - {background}
        if background != 0 and all(0 in one.thin for one in maps if 0 in one.pixels):
            void |= {0} & values  # lines between the regions
    return background, void - {background}


def _special(values: set[int]) -> frozenset[int]:
    """Values that stand for void or background rather than for an instance: negative ones, a largest value of an
    integer type that is far from all others, and Pascal VOC's color.
    """
    special = {value for value in values if value < 0} | ({VOC_VOID} & values)
    largest = max(values)
    others = sorted(value for value in values | {0} if 0 <= value < largest)
    if largest in LARGEST and len(others) > 1:
        usual = float(np.median(np.diff(others)))
        if largest - others[-1] > ORDINARY_GAP * usual:
            special.add(largest)
    elif largest in LARGEST and min(values) < 0:
        special.add(largest)
    return frozenset(special)


def _surrounds(value: int, other: int | None, border: Counter[int], maps: Sequence[MapStatistics]) -> bool:
    """Whether a value that is neither 0 nor special is the background: along most of the border in most of the maps."""
    pixels = sum(sum(one.pixels.values()) for one in maps)
    return (
        border[value] > 0.6 * border.total()
        and sum(one.pixels[value] for one in maps) > 0.3 * pixels
        and sum(value in one.pixels for one in maps) >= 0.8 * len(maps)
        and (other is None or (len(maps) >= 3 and border[other] < 0.1 * border.total()))
    )


def _void_text(maps: Sequence[MapStatistics], void: frozenset[int]) -> str:
    if not void:
        return ""
    names = " and ".join(_value(value) for value in sorted(void))
    count = sum(any(value in one.pixels for value in void) for one in maps)
    return f"; {names} is void, which belongs to no instance (in {count} of {len(maps)} maps)"


def _value(value: int) -> str:
    """A value, with the color if it is one."""
    return str(value) if value < 65536 else f"{value} (color {value & 255}, {value >> 8 & 255}, {value >> 16 & 255})"


def _decision(what: str, other: str) -> str:
    return f"label maps: {what}. To read them otherwise: --label-maps, such as --label-maps {other}"
