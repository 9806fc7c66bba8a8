"""`htc demo`: train a small HTC from scratch on bundled images of cell nuclei, with the code for any dataset."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from htc.config import Config
from htc.data.coco import Splits, find_splits, read_coco
from htc.evaluation.coco import MetricValues
from htc.evaluation.drawings import draw_comparisons
from htc.presets import preset
from htc.training.events import Listener
from htc.training.run import Options, run_training

DEMO_PRESET = "htc_r18_small"
NUCLEI = Path(__file__).parent / "nuclei"
IMAGES_FOLDER = "pictures"
EVALUATE_EVERY = 4


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo."""

    folder: Path
    model: Path
    """Model folder, for `htc.load(model)`."""
    metrics: MetricValues
    """Metrics on the bundled validation images, with up to 400 detections each."""
    images: tuple[Path, ...]
    """Drawings of ground truth and prediction side by side."""
    curves: tuple[Path, ...]
    next_commands: tuple[tuple[str, str], ...]
    """(purpose, command)."""
    seconds: float


def run_demo(
    out: Path,
    seed: int = 0,
    device: str = "auto",
    progress: Listener | None = None,
    config: Config | None = None,
    splits: Splits | None = None,
) -> DemoResult:
    """Train, evaluate, predict and draw into the folder `out`; the same seed on a machine gives the same metrics.

    The number of steps is fixed, so that speed has no influence on the result. `config` and `splits` (with validation
    images) replace the preset and the bundled nuclei. Raises `OutputError` if `out` cannot be written to or already
    contains a training.
    """
    start = time.monotonic()
    splits = splits or nuclei()
    options = Options(
        seed=seed,
        device=device,
        evaluate_every=EVALUATE_EVERY,
        validation_losses=False,
        images=0,
        checkpoints=None,
    )
    trained = run_training(config or preset(DEMO_PRESET), splits, out, options, progress)
    assert trained.metrics is not None
    assert splits.val_annotations is not None
    assert splits.val_images is not None
    images = draw_comparisons(trained.model, read_coco(splits.val_annotations, splits.val_images), out / IMAGES_FOLDER)
    return DemoResult(
        folder=out,
        model=trained.model_folder,
        metrics=trained.metrics.to_dict(),
        images=images,
        curves=tuple(sorted((out / "curves").glob("*.png"))),
        next_commands=next_commands(trained.model_folder, splits),
        seconds=time.monotonic() - start,
    )


def nuclei() -> Splits:
    """Return the bundled nuclei: 142 training images, and 30 validation images from other micrographs."""
    return find_splits(NUCLEI)


def next_commands(model: Path, splits: Splits) -> tuple[tuple[str, str], ...]:
    """Return suggested next commands: with this model, with own data, with released weights."""
    images = shlex.quote(str(splits.val_images))
    return (
        (
            "predict with this model (any images of nuclei)",
            f"htc predict {images} --model {shlex.quote(str(model))}",
        ),
        ("train on your own data, annotated in COCO's format", f"htc train --data DIR --preset {DEMO_PRESET}"),
        ("predict everyday objects (COCO) with released weights", "htc predict IMAGE.jpg --model htc_r50_fpn_20e_coco"),
    )
