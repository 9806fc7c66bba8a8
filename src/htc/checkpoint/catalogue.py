"""What is known of every preset: its size, its published AP with the source, and what this library measured."""

import json
from dataclasses import dataclass
from importlib.resources import files

from htc.checkpoint.zoo import RELEASED
from htc.presets import PRESETS
from htc.presets.published import MEASURED_AP, PUBLISHED, MeasuredAP

ZOO = "mmdetection model zoo"


@dataclass(frozen=True)
class Entry:
    """One preset. AP per cent; None where nothing is known."""

    name: str
    parameters: float | None
    """Millions."""
    gflop: float | None
    """Of one picture of 800 x 1333 with 1000 proposals and 100 detections, 2 a multiply-add."""
    box_ap: float | None
    mask_ap: float | None
    pictures: str | None
    """What the AP is of: COCO val2017 or test-dev."""
    source: str | None
    measured: MeasuredAP | None


def catalogue() -> list[Entry]:
    """All presets in their order."""
    sizes = json.loads(files("htc.presets").joinpath("sizes.json").read_text(encoding="utf-8"))
    return [_entry(name, sizes.get(name, {})) for name in PRESETS]


def _entry(name: str, size: dict[str, float]) -> Entry:
    return Entry(name, size.get("parameters"), size.get("gflop"), *_published(name), MEASURED_AP.get(name))


def _published(name: str) -> tuple[float | None, float | None, str | None, str | None]:
    if name in RELEASED:
        return RELEASED[name].box_ap, RELEASED[name].mask_ap, "val2017", ZOO
    if name in PUBLISHED:
        found = PUBLISHED[name]
        return found.box_ap, found.mask_ap, found.pictures, found.source
    return None, None, None, None
