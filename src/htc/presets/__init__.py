"""Named configurations, and their published or measured AP.

Each preset is a function that returns a whole `Config`; there is no inheritance. Names follow mmdetection's, so that
its released weights map one to one. A preset belongs to the module of its source: `coco`, `paper`, `table7`, `small` or
`extended`; `published` holds AP with its sources.
"""

from collections.abc import Callable
from difflib import get_close_matches

from htc.config import Config
from htc.errors import ConfigError
from htc.presets.coco import OFFICIAL
from htc.presets.extended import BEYOND, DETECTORS, GA_RPN, PANET
from htc.presets.paper import PAPER
from htc.presets.small import SMALL
from htc.presets.table7 import TABLE7

DEFAULT_PRESET = "htc_r50_fpn_1x_coco"
"""Preset if none is given and none is derived from a dataset."""
PRESETS: dict[str, Callable[[], Config]] = {
    **OFFICIAL,
    **PAPER,
    **PANET,
    **TABLE7,
    **BEYOND,
    **SMALL,
    **GA_RPN,
    **DETECTORS,
}


def preset(name: str) -> Config:
    """Return the configuration of that name; raises `ConfigError` with the nearest names if there is none."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`htc models` lists them."
        raise ConfigError(f"there is no preset {name!r}; {hint}")
    return PRESETS[name]()
