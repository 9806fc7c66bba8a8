"""Catalogue of the presets: mmdetection's released weights, published and measured AP, size.

`fetch` downloads released weights into the cache; `catalogue` lists the presets for `htc models`.
"""

import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase as fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Never

from htc.checkpoint.download import DownloadProgress, FetchError, download, offline
from htc.errors import ConfigError
from htc.files import cache_folder
from htc.keywords import unknown_option
from htc.presets import PRESETS, preset
from htc.presets.published import MEASURED_AP, PUBLISHED, MeasuredAP

SERVER = "https://download.openmmlab.com/mmdetection/v2.0"


@dataclass(frozen=True)
class Release:
    """A released weights file: path on the server, first 8 hexadecimal digits of its SHA-256 (as in its name),
    published AP on COCO val2017 (per cent).
    """

    path: str
    sha256: str
    box_ap: float
    mask_ap: float


def _release(family: str, preset_name: str, date: str | None, sha256: str, box_ap: float, mask_ap: float) -> Release:
    dated = preset_name if date is None else f"{preset_name}_{date}"
    return Release(f"{family}/{preset_name}/{dated}-{sha256}.pth", sha256, box_ap, mask_ap)


_DCONV = "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco"
_TABLE = (
    ("mask_rcnn", "mask_rcnn_r50_fpn_1x_coco", "20200205", "d4b0c5d6", 38.2, 34.7),
    ("mask_rcnn", "mask_rcnn_r101_fpn_1x_coco", "20200204", "1efe0ed5", 40.0, 36.1),
    ("mask_rcnn", "mask_rcnn_x101_32x4d_fpn_1x_coco", "20200205", "478d0b67", 41.9, 37.5),
    ("mask_rcnn", "mask_rcnn_x101_64x4d_fpn_1x_coco", "20200201", "9352eb0d", 42.8, 38.4),
    ("cascade_rcnn", "cascade_mask_rcnn_r50_fpn_1x_coco", "20200203", "9d4dcb24", 41.2, 35.9),
    ("cascade_rcnn", "cascade_mask_rcnn_r101_fpn_1x_coco", "20200203", "befdf6ee", 42.9, 37.3),
    ("cascade_rcnn", "cascade_mask_rcnn_x101_32x4d_fpn_1x_coco", "20200201", "0f411b1f", 44.3, 38.3),
    ("cascade_rcnn", "cascade_mask_rcnn_x101_64x4d_fpn_1x_coco", "20200203", "9a2db89d", 45.3, 39.2),
    ("htc", "htc_r50_fpn_1x_coco", "20200317", "7332cf16", 42.3, 37.4),
    ("htc", "htc_r50_fpn_20e_coco", "20200319", "fe28c577", 43.3, 38.3),
    ("htc", "htc_r101_fpn_20e_coco", "20200317", "9b41b48f", 44.8, 39.6),
    ("htc", "htc_x101_32x4d_fpn_16x1_20e_coco", "20200318", "de97ae01", 46.1, 40.5),
    ("htc", "htc_x101_64x4d_fpn_16x1_20e_coco", "20200318", "b181fd7a", 47.0, 41.4),
    ("htc", _DCONV, "20200312", "946fd751", 50.4, 43.8),
    ("detectors", "htc_r50_rfp_1x_coco", None, "8ff87c51", 46.6, 40.9),
    ("detectors", "htc_r50_sac_1x_coco", None, "bfa60c54", 46.4, 40.9),
    ("detectors", "detectors_htc_r50_1x_coco", None, "329b1453", 49.1, 42.6),
)
RELEASED: dict[str, Release] = {row[1]: _release(*row) for row in _TABLE}


def weights_url(name: str) -> str | None:
    """Return the URL of a preset's released weights; None if there are none. `HTC_MIRROR` replaces the server."""
    release = RELEASED.get(name)
    return None if release is None else f"{os.environ.get('HTC_MIRROR', SERVER).rstrip('/')}/{release.path}"


def cached(name: str, cache_dir: Path | None = None) -> Path:
    """Return the path of a preset's released weights in the cache, whether they exist or not."""
    return (cache_dir or cache_folder()) / RELEASED[name].path.rsplit("/", 1)[1]


def fetch(name: str, cache_dir: Path | None = None, progress: DownloadProgress | None = None) -> Path:
    """Download the released weights of a preset into the cache, once, and verify the SHA-256 in their name.

    `progress(done, total)` is called with bytes (total is None if the server does not report it). An interrupted
    download is resumed. Raises `ConfigError` for an unknown preset, `FetchError` (a `CheckpointError`) if the weights
    cannot be downloaded: offline (`HTC_OFFLINE=1` or `HF_HUB_OFFLINE=1`), not found, interrupted, or not the published
    file.
    """
    url = weights_url(name)
    if url is None:
        preset(name)
        raise ConfigError(f"{name}: this preset has no released weights; `htc models` lists the presets that have")
    target = cached(name, cache_dir)
    if not target.exists() and offline():
        raise FetchError(f"{name}: offline, and its weights are not in the cache; download {url} to {target}")
    return download(url, target, RELEASED[name].sha256, progress)


def list_models(pattern: str = "*", *, released: bool = False, **unknown: Never) -> list[str]:
    """List the names of the presets, for `htc.load`, `htc.train(preset=...)` and the command line.

    Args:
        pattern: only names that match, with `*` and `?` as in file names.
        released: only presets with mmdetection's released weights.

    Raises:
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> htc.list_models("htc_r50*", released=True)
        ['htc_r50_fpn_1x_coco', 'htc_r50_fpn_20e_coco', 'htc_r50_rfp_1x_coco', 'htc_r50_sac_1x_coco']
    """
    if unknown:
        raise unknown_option(list_models, unknown)
    return [name for name in PRESETS if fnmatch(name, pattern) and (name in RELEASED or not released)]


ZOO = "mmdetection model zoo"


@dataclass(frozen=True)
class Entry:
    """A preset with its size and AP (per cent); None if unknown."""

    name: str
    parameters: float | None
    """Millions."""
    gflop: float | None
    """For an image of 800 x 1333 with 1000 proposals and 100 detections; a multiply-add counts as 2."""
    box_ap: float | None
    mask_ap: float | None
    images: str | None
    """Images of the AP: COCO val2017 or test-dev."""
    source: str | None
    measured: MeasuredAP | None


def catalogue() -> list[Entry]:
    """List all presets in their order."""
    sizes = json.loads(files("htc.presets").joinpath("sizes.json").read_text(encoding="utf-8"))
    return [_entry(name, sizes.get(name, {})) for name in PRESETS]


def _entry(name: str, size: dict[str, float]) -> Entry:
    return Entry(name, size.get("parameters"), size.get("gflop"), *_published(name), MEASURED_AP.get(name))


def _published(name: str) -> tuple[float | None, float | None, str | None, str | None]:
    if name in RELEASED:
        return RELEASED[name].box_ap, RELEASED[name].mask_ap, "val2017", ZOO
    if name in PUBLISHED:
        published = PUBLISHED[name]
        return published.box_ap, published.mask_ap, published.images, published.source
    return None, None, None, None
