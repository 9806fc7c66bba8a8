"""`htc train`: a data set in, a trained model out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from htc.cli.evaluate import print_metrics
from htc.cli.options import Count, Flags, ModelOptions, Switch
from htc.cli.output import folder_for, progress, say
from htc.errors import DataError
from htc.settings import Setting, resolve, to_yaml

if TYPE_CHECKING:
    from htc.data.coco import Splits

DEFAULTS = ModelOptions()
PRESET = "htc_r50_fpn_1x_coco"


def train(
    *,
    data: Path | None = None,
    train_annotations: Path | None = None,
    train_images: Path | None = None,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
    preset: str | None = None,
    weights: str | None = None,
    semantic: str = "auto",
    out: Path | None = None,
    epochs: Count | None = None,
    max_time: float | None = None,
    batch_size: Count | None = None,
    lr: float | None = None,
    seed: int = 0,
    workers: int = 0,
    resume: Switch = False,
    options: ModelOptions = DEFAULTS,
    flags: Flags = (),
) -> int:
    """Train a model on pictures with COCO annotations.

    Parameters
    ----------
    data
        Folder with annotations/instances_{train,val}.json and {train,val}/, COCO's own layout, or Roboflow's.
    train_annotations
        Instead of --data: COCO annotations to train on.
    train_images
        Their pictures.
    val_annotations
        COCO annotations to measure on.
    val_images
        Their pictures.
    preset
        What to train; left out: htc_r50_fpn_1x_coco. `htc models` lists all.
    weights
        Start from these: a file, a folder, or a preset's released weights. Layers that depend on the classes start anew.
    semantic
        Targets of the semantic branch: auto derives them from the instances, none leaves the branch out, or a folder of PNG maps.
    out
        Folder for model, numbers and curves; left out: runs/train/PRESET.
    epochs
        Times that all pictures are seen.
    max_time
        Stop after so many minutes.
    batch_size
        Pictures a step.
    lr
        Learning rate (SGD: for 16 pictures a step).
    seed
        The same seed on the same machine gives the same numbers.
    workers
        Processes that prepare pictures.
    resume
        Go on with the training in --out.
    """
    settings = [*options.settings(flags), *_shortcuts(epochs, batch_size, lr)]
    if preset is not None:
        settings.append(Setting(("preset",), preset, "--preset"))
    config = resolve(settings, PRESET)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    splits = _splits(data, train_annotations, train_images, val_annotations, val_images)
    folder = out if resume and out is not None else folder_for("train", config.preset, out)
    from htc.training.run import Options
    from htc.training.run import train as run_training

    kind: Literal["auto", "none"] | Path = "auto" if semantic == "auto" else "none" if semantic == "none" else Path(semantic)
    how = Options(seed=seed, device=options.device, minutes=max_time, resume=resume, weights=weights, semantic=kind, workers=workers)
    with progress("train") as bar:
        result = run_training(config, splits, folder, how, lambda step, steps, losses: bar(step, steps, loss_note(losses)))
    if result.metrics is not None:
        print_metrics(result.metrics)
    say(f"the model is in {result.model}, numbers and curves in {result.folder}")
    say(f"try it: htc predict PICTURE --model {result.folder}")
    return 0


def loss_note(losses: Mapping[str, float]) -> str:
    """The sum of the losses, as the progress bar shows it."""
    return f"loss {sum(losses.values()):.3f}"


def _shortcuts(epochs: int | None, batch_size: int | None, lr: float | None) -> list[Setting]:
    given = (
        (("training", "epochs"), epochs, "--epochs"),
        (("training", "batch_size"), batch_size, "--batch-size"),
        (("training", "optimizer", "lr"), lr, "--lr"),
    )
    return [Setting(path, value, source) for path, value, source in given if value is not None]


def _splits(data: Path | None, train_json: Path | None, train_images: Path | None, val_json: Path | None, val_images: Path | None) -> "Splits":
    from htc.data.coco import Splits, find_splits

    named = [train_json, train_images, val_json, val_images]
    if data is not None:
        if any(path is not None for path in named):
            raise DataError("give either --data DIR or --train-annotations with --train-images, not both")
        return find_splits(data)
    if train_json is None or train_images is None:
        raise DataError("nothing to train on: give --data DIR, or --train-annotations JSON with --train-images DIR")
    if (val_json is None) != (val_images is None):
        raise DataError("--val-annotations and --val-images go together: give both or neither")
    return Splits(train_json, train_images, val_json, val_images)
