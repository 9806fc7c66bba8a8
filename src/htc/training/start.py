"""The weights that a training starts from, chosen by what is reachable and what the device can train.

Without `--weights`: released COCO weights on a GPU that they fit, else ImageNet weights of the backbone, else random
ones, which is a compromise that the rule states. Mirrors that do not answer, or deliver nothing, cost at most
`PATIENCE` seconds in all.
"""

import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from htc.checkpoint.download import FetchError, HttpsStaysHttps, offline
from htc.checkpoint.zoo import cached, fetch, weights_url
from htc.config import Config
from htc.errors import ConfigError
from htc.presets import PRESETS, preset
from htc.settings.layers import Setting, names_preset, resolve
from htc.training.events import Downloading, Listener, Phase

_T = TypeVar("_T")
Kind = Literal["none", "imagenet", "coco"]
KINDS: tuple[Kind, ...] = ("none", "imagenet", "coco")
"""Names of `--weights` that are not those of weights."""
COCO_START, SMALL_START = "htc_r50_fpn_20e_coco", "htc_r18_small"
"""The presets of the automatic start: with COCO weights on a GPU, and with ImageNet weights on a CPU."""
PATIENCE, PROBE, LEAST_PROBE = 5.0, 2.5, 0.2
"""Seconds that unreachable mirrors may cost in all, that a mirror has to answer, and that are worth an attempt."""
PRETRAINED_SMALL: dict[str, Any] = {
    "backbone": {"norm": "statistics_fixed", "frozen_stages": 1, "pretrained": True},
    "training": {"optimizer": {"layer_decay": 0.8}},
}
"""Changes of `SMALL_START` for ImageNet weights: the norms that they have, frozen stem and first stage as in
mmdetection, and a smaller rate for the early layers (not measured).
"""
FREE_SECTIONS = ("training", "input", "inference", "precision")
"""Settings of the user that leave the architecture as the weights have it."""


@dataclass(frozen=True)
class Start:
    """What a training starts from: the name or file of a detector's weights, or a configuration whose backbone is
    pretrained, or neither; with the rule that chose it.
    """

    kind: Literal["weights", "imagenet", "none"]
    rule: str
    weights: str | None = None
    """Of a whole detector."""
    config: Config | None = None
    """The configuration to derive the training's from; None: that of the weights, or the one for a start from random
    weights.
    """
    settings: tuple[Setting, ...] = ()
    """Settings that select the backbone's weights for a preset that the user named."""


@dataclass
class Patience:
    """Seconds that may still be spent waiting for mirrors that do not deliver."""

    left: float = PATIENCE
    failed: list[str] = field(default_factory=list)
    """What was tried in vain, for the rule."""

    def attempt(self, name: str, work: Callable[[Callable[[int], None]], _T], most: float = PATIENCE) -> _T | None:
        """Return the result of `work(progress)`, or None if it fails, or delivers nothing for the seconds left.

        `progress` takes the bytes received so far; `most` are the seconds that this work may wait in vain. The work
        runs in a thread of its own, which is abandoned: a name server or a proxy that hangs cannot be interrupted
        otherwise.
        """
        outcome: list[tuple[_T | None, Exception | None]] = []
        delivered, last = [0], [time.monotonic()]

        def progress(done: int) -> None:
            if done > delivered[0]:
                delivered[0], last[0] = done, time.monotonic()

        def run() -> None:
            try:
                outcome.append((work(progress), None))
            except Exception as error:  # what a mirror delivers may break any part of its reader
                outcome.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            limit = min(most, self.left)
            waited = time.monotonic() - last[0]
            if waited >= limit:
                self.left = max(0.0, self.left - waited)
                self.failed.append(f"{name}: no data for {waited:.1f} s")
                return None
            thread.join(min(0.05, limit - waited))
        value, error = outcome[0]
        if error is None:
            return value
        self.left = max(0.0, self.left - (time.monotonic() - last[0]))
        self.failed.append(f"{name}: {_short(error)}")
        return None


def choose_start(
    weights: str | None,
    settings: Sequence[Setting],
    *,
    on_gpu: bool,
    fits: Callable[[Config], bool],
    own_backbone: bool,
    listener: Listener,
) -> Start:
    """Choose the start for `--weights` (None: automatic) and download what it needs into the cache.

    `fits` returns whether a configuration can be trained in the device's memory. Raises `FetchError` and `ConfigError`
    if what the user asked for cannot be had; the automatic choice raises nothing.
    """
    if weights is not None and (weights not in KINDS or Path(weights).exists()):
        return Start("weights", f"the architecture of the weights {weights}", weights)
    if weights == "none":
        return Start("none", "random weights, as asked (--weights none)")
    if weights == "coco":
        name = resolve(settings, COCO_START).preset if names_preset(settings) else COCO_START
        fetch(name, progress=_shown(listener, name))
        return Start("weights", f"released COCO weights of {name} (--weights coco)", name)
    if weights == "imagenet":
        return _imagenet(settings, on_gpu, listener)
    if names_preset(settings) or own_backbone:
        return Start("none", "a named preset or an own backbone starts as it is configured; see --weights")
    return _automatic(settings, on_gpu, fits, listener)


def _automatic(settings: Sequence[Setting], on_gpu: bool, fits: Callable[[Config], bool], listener: Listener) -> Start:
    """Choose the best start that is reachable: COCO weights, ImageNet weights, random weights."""
    listener(Phase("choosing the weights to start from"))
    patience, changed = Patience(), {setting.path[0] for setting in settings} - set(FREE_SECTIONS)
    if changed:
        patience.failed.append(f"COCO weights do not fit your settings of {', '.join(sorted(changed))}")
    elif not on_gpu:
        patience.failed.append(f"COCO weights ({COCO_START}) are for a GPU; to train them here: --weights coco")
    elif not fits(preset(COCO_START)):
        patience.failed.append(f"{COCO_START} does not fit the device's memory")
    elif _fetched(COCO_START, patience, listener):
        return Start(
            "weights", f"released COCO weights: the best start for few images on a GPU{_tried(patience)}", COCO_START
        )
    if "backbone" in changed:
        patience.failed.append(
            "ImageNet weights may not fit your settings of the backbone; to use them: --weights imagenet"
        )
        return _from_scratch(patience)
    base = preset(COCO_START) if on_gpu and fits(preset(COCO_START)) else None
    config = (
        preset(SMALL_START).replace(**PRETRAINED_SMALL) if base is None else base.replace(backbone={"pretrained": True})
    )
    if _backbone_fetched(config, patience, listener):
        return Start("imagenet", f"ImageNet weights of the backbone{_tried(patience)}", config=config)
    return _from_scratch(patience)


def _from_scratch(patience: Patience) -> Start:
    return Start(
        "none",
        f"random weights, a compromise: on few images, a model that starts from pretrained weights is better"
        f"{_tried(patience)}",
    )


def _imagenet(settings: Sequence[Setting], on_gpu: bool, listener: Listener) -> Start:
    """Return the start from ImageNet weights that the user asked for."""
    if names_preset(settings):
        config = resolve(settings, COCO_START)
        changes = [Setting(("backbone", "pretrained"), True, "--weights imagenet")]
        if config.backbone.kind == "resnet" and config.backbone.norm == "group":
            changes.append(Setting(("backbone", "norm"), "statistics_fixed", "--weights imagenet"))
        resolve([*settings, *changes], COCO_START)
        return Start("imagenet", "ImageNet weights of the backbone (--weights imagenet)", settings=tuple(changes))
    config = (
        preset(COCO_START).replace(backbone={"pretrained": True})
        if on_gpu
        else preset(SMALL_START).replace(**PRETRAINED_SMALL)
    )
    listener(Phase("downloading ImageNet weights of the backbone"))
    _read_backbone(config)
    return Start("imagenet", "ImageNet weights of the backbone (--weights imagenet)", config=config)


def _fetched(name: str, patience: Patience, listener: Listener) -> bool:
    """Return whether released weights are in the cache, after an attempt to download them."""
    if cached(name).exists():
        return True
    url = weights_url(name)
    assert url is not None
    if not _answers(f"released weights {name}", url, patience):
        return False
    listener(Phase(f"downloading the weights of {name}"))
    show = _shown(listener, name)

    def work(progress: Callable[[int], None]) -> Path:
        def both(done: int, total: int | None) -> None:
            progress(done)
            show(done, total)

        return fetch(name, progress=both)

    return patience.attempt(f"released weights {name}", work, PATIENCE - PROBE) is not None


def _backbone_fetched(config: Config, patience: Patience, listener: Listener) -> bool:
    """Return whether the backbone's ImageNet weights are in a cache, after an attempt to download them."""
    from huggingface_hub import constants, try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    from htc.checkpoint.formats.imagenet import source_of

    name = source_of(config.backbone)
    described = get_pretrained_cfg(name)
    if described is None or not described.hf_hub_id:
        patience.failed.append(f"ImageNet weights {name}: not on the hub")
        return False
    file = described.hf_hub_filename or "model.safetensors"
    if isinstance(try_to_load_from_cache(described.hf_hub_id, file), str):
        return True
    url = f"{constants.ENDPOINT}/{described.hf_hub_id}/resolve/main/{file}"
    if not _answers(f"ImageNet weights {name}", url, patience):
        return False
    listener(Phase(f"downloading ImageNet weights ({name})"))
    folder = Path(constants.HF_HUB_CACHE) / f"models--{described.hf_hub_id.replace('/', '--')}"

    def work(progress: Callable[[int], None]) -> bool:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                progress(sum(one.stat().st_size for one in folder.glob("blobs/*") if one.exists()))

        threading.Thread(target=watch, daemon=True).start()
        try:
            _read_backbone(config)
        finally:
            ended.set()
        return True

    return patience.attempt(f"ImageNet weights {name}", work) is not None


def _read_backbone(config: Config) -> None:
    """Download the backbone's weights into the hub's cache and read them, which fails for a damaged file."""
    from htc.checkpoint.formats.imagenet import fetch_from_timm, read_classifier, source_of

    read_classifier(fetch_from_timm(source_of(config.backbone)))


def _answers(name: str, url: str, patience: Patience) -> bool:
    """Return whether a mirror answers for this file with more than an error."""
    if offline():
        patience.failed.append(f"{name}: not in the cache, and offline (HTC_OFFLINE)")
        return False

    def probe(_progress: Callable[[int], None]) -> bool:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "hybrid-task-cascade"})
        try:
            with urllib.request.build_opener(HttpsStaysHttps).open(request, timeout=PROBE):
                return True
        except ValueError as error:
            raise FetchError(f"{url}: invalid URL ({error})") from error

    if patience.left < LEAST_PROBE:
        patience.failed.append(f"{name}: not tried, since other mirrors took {PATIENCE:g} s")
        return False
    return bool(patience.attempt(name, probe, PROBE))


def _shown(listener: Listener, name: str) -> Callable[[int, int | None], object]:
    return lambda done, total: listener(Downloading(name, done, total))


def _tried(patience: Patience) -> str:
    return f" ({'; '.join(patience.failed)})" if patience.failed else ""


def _short(error: object) -> str:
    """Return the first words of an error, which is one of several in a line."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:120]


def check_kind(weights: str, settings: Sequence[Setting]) -> bool:
    """Return whether `weights` is one of `KINDS`; raises `ConfigError` if the preset has none of that kind."""
    if weights not in KINDS or Path(weights).exists():
        return False
    named = resolve(settings, COCO_START).preset if names_preset(settings) else COCO_START
    if weights == "coco" and weights_url(named) is None:
        raise ConfigError(
            f"--weights coco: {named if named in PRESETS else 'this configuration'} has no released weights; "
            f"`htc models` lists the presets that have"
        )
    return True
