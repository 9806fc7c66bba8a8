"""How the label maps of a dataset are read, decided once for all of them from their statistics.

Programs write the same masks in many ways: 0 and 1 or 0 and 255, with smoothed edges or after JPEG compression, with a
white background or -1, with a border of 255 (void) around each instance. `decide` looks at the values of all maps and
returns a rule with the sentence that is printed; `--label-maps` overrules it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from htc.data.formats.converted import listed
from htc.data.formats.map_statistics import MapStatistics
from htc.data.formats.map_values import LOSSY
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
MOST = 2 / 3
"""Share of the border that the background covers at least."""
FEW_VALUES = 8
"""Fewer thin values than this may be instances."""
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
    shares = [_bright_share(one.border, one) for one in maps]
    inverted = bool(maps) and sum(shares) > MOST * len(maps) and _bright_area(maps) > 0.5
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
        notes.append(f"the foreground is {' or '.join(map(str, highs))}, depending on the map")
    odd = [one.file.name for one in maps if _mostly_bright(one) != inverted and len(one.pixels) > 1]
    if options.background is None and odd and not inverted:
        notes.append(
            f"the foreground covers most of the border in {listed(odd)}; if these are inverted, invert them back"
        )
    elif options.background is None and odd:
        notes.append(f"the background does not cover most of the border in {listed(odd)}; check that they are inverted")
    if smooth:
        lossy = " (JPEG files)" if any(one.file.suffix.lower() in LOSSY for one in smooth) else ""
        notes.append(
            f"{len(smooth)} of {len(maps)} maps have smoothed or compressed edges{lossy}, such as "
            f"{smooth[0].file.name} with {len(smooth[0].pixels)} gray values; what is above the middle of "
            f"{smooth[0].low} and {smooth[0].high} is the foreground"
        )
    return MapRule("components", True, inverted, notes=tuple(notes))


def _bright_share(counted: Counter[int], found: MapStatistics) -> float:
    """Share of the counted pixels at the upper level of a binary map."""
    middle = (found.low + found.high) / 2 if found.low < found.high else 0
    return sum(count for value, count in counted.items() if value > middle) / counted.total()


def _bright_area(maps: Sequence[MapStatistics]) -> float:
    """Mean share of the upper level in all maps."""
    return sum(_bright_share(one.pixels, one) for one in maps) / len(maps)


def _mostly_bright(found: MapStatistics) -> bool:
    return _bright_share(found.border, found) > MOST


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
    if not LARGEST[1] < value <= WHITE:
        return str(value)
    return f"{value} (color {value & 255}, {value >> 8 & 255}, {value >> 16 & 255})"


def _decision(what: str, other: str) -> str:
    return f"label maps: {what}. To read them otherwise: --label-maps, such as --label-maps {other}"
