"""`htc train`: a data set in, a trained model out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from htc.checkpoint.check import check_weights, to_be_fetched
from htc.cli.metrics import print_metrics
from htc.cli.model import fetch_weights
from htc.cli.options import MODEL_OPTIONS, Above, Count, File, Flags, Folder, ModelOptions, Name, Natural, Switch, Words
from htc.cli.output import filling, folder_for, messages, say
from htc.cli.semantic import NO_MAPS, MapFlags
from htc.cli.watch import watching
from htc.compatibility import check_torch
from htc.errors import ConfigError
from htc.presets import DEFAULT_PRESET
from htc.ranks import here
from htc.settings.layers import Setting, names_preset, resolve, to_yaml
from htc.training.launch import on_first_process, start_together
from htc.training.loggers import check_loggers

if TYPE_CHECKING:
    from htc.data.coco import Splits
    from htc.data.dataset import Dataset
    from htc.training.auto_config import Choice
    from htc.training.plan import TrainingPlan
    from htc.training.record import Listener


def train(
    *,
    data: Folder | None = None,
    val_share: Annotated[Above | None, Parameter(metavar="SHARE")] = None,
    train_annotations: File | None = None,
    train_images: Folder | None = None,
    val_annotations: File | None = None,
    val_images: Folder | None = None,
    preset: Name | None = None,
    weights: Name | None = None,
    semantic: Annotated[str, Parameter(metavar="auto|none|DIR")] = "auto",
    maps: MapFlags = NO_MAPS,
    out: Folder | None = None,
    epochs: Count | None = None,
    evaluate_every: Count | None = None,
    max_time: Annotated[Above | None, Parameter(metavar="MINUTES")] = None,
    batch_size: Count | None = None,
    lr: float | None = None,
    seed: Natural = 0,
    workers: Natural = 0,
    resume: Switch = False,
    checkpoint_steps: Count | None = None,
    devices: Count = 1,
    nodes: Count = 1,
    logger: Annotated[Words | None, Parameter(metavar="tensorboard|wandb|mlflow")] = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Train a model on pictures with COCO annotations.

    Parameters
    ----------
    data
        Folder with COCO annotations (annotations/instances_{train,val}.json and {train,val}/, COCO's own layout,
        Roboflow's), YOLO's
        data.yaml, labelme's JSON files, or label maps (images/ and masks/).
    val_share
        Where --data has no validation part: set this share of the training pictures (0.2: a fifth) apart for it.
    train_annotations
        Instead of --data: COCO annotations to train on.
    train_images
        Their pictures.
    val_annotations
        COCO annotations to measure on.
    val_images
        Their pictures.
    preset
        What to train; `htc models` lists all. Default: chosen by the number of pictures and the memory, input size,
        anchors,
        detections and epochs by the objects; each choice is printed with its rule.
    weights
        Start from these: a file, a folder, or the name of a preset with released weights. Layers that depend on the
        classes start anew.
    semantic
        Targets of the semantic branch: auto derives them from the instances, none leaves the branch out, DIR holds PNG
        maps.
    out
        Folder for model, numbers and curves. Default: runs/train/PRESET, or the name of the data where the preset is
        chosen.
    epochs
        Times that all pictures are seen. Default: the preset's.
    evaluate_every
        Epochs between two evaluations. Default: 1, or about twenty evaluations where the epochs are chosen.
    max_time
        Stop after so many minutes.
    batch_size
        Pictures a step. Default: the preset's.
    lr
        Learning rate (of SGD: for 16 pictures a step). Default: the preset's.
    seed
        The same seed on the same machine gives the same numbers.
    workers
        Processes that prepare pictures; 0: none beside the training itself.
    resume
        Go on with the training in --out DIR, exactly where its last checkpoint was written.
    checkpoint_steps
        Write a checkpoint every so many steps too, not only every minute, at the end of an epoch and when stopped.
    devices
        Processes on this machine that train together, each on its own GPU (or CPU). Not needed under torchrun and srun.
    nodes
        Machines that do so; each then needs MASTER_ADDR, MASTER_PORT and NODE_RANK in its environment
        (docs/many_gpus.md).
    logger
        Also log losses, metrics and hyperparameters to one or several of these.
    """
    check_loggers(logger or ())
    settings = [*options.settings(flags), *_shortcuts(epochs, batch_size, lr)]
    if preset is not None:
        settings.append(Setting(("preset",), preset, "--preset"))
    given = resolve(settings, DEFAULT_PRESET)  # what is wrong by itself is said before any data is read
    no_data = data is None and train_annotations is None
    if options.print_config and (names_preset(settings) or no_data):
        print(to_yaml(given), end="")
        return 0
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the folder of the training to go on with")
    targets = maps.targets(semantic)
    if weights is not None:
        check_weights(weights)
    name = given.preset if names_preset(settings) or no_data else _name_of(data or train_annotations)

    def prepare() -> "tuple[Path, Splits]":
        from htc.data.formats.layouts import locate_splits

        folder = out if resume and out is not None else folder_for("train", name, out)
        splits = locate_splits(
            data=data,
            train_annotations=train_annotations,
            train_images=train_images,
            val_annotations=val_annotations,
            val_images=val_images,
            val_share=val_share,
            converted=folder / "data",
            say=say,
        )
        _fetch(weights, splits)
        return folder, splits

    if devices * nodes > 1 and here().ranks == 1:
        return start_together(devices, nodes)
    folder, splits = on_first_process(options.device, prepare)
    check_torch()
    from htc.training.checkpoints import Every
    from htc.training.plan import plan_training
    from htc.training.run import Options

    how = Options(
        seed=seed,
        device=options.device,
        minutes=max_time,
        resume=resume,
        weights=weights,
        semantic=targets,
        workers=workers,
        checkpoints=Every(steps=checkpoint_steps),
        loggers=tuple(logger or ()),
    )
    plan = plan_training(splits, folder, settings=settings, options=how, evaluate_every=evaluate_every)
    if options.print_config:
        print(to_yaml(plan.fitted), end="")
        return 0
    _train(splits, folder, plan)
    return 0


def _train(splits: "Splits", folder: Path, plan: "TrainingPlan") -> None:
    """Show the plan, train, and print the results."""
    from htc.inference.load import choose_device
    from htc.training.auto_config import peak_memory
    from htc.training.run import train as run_training

    choices = plan.choices()
    _show_choices(plan.dataset, choices)
    device = choose_device(plan.options.device)
    options = replace(plan.options, evaluate_every=plan.evaluate_every, choices=choices)
    with filling(folder), watching(options.minutes, lambda: peak_memory(device)) as watch:
        result = run_training(plan.config, splits, folder, options, watch)
    if result.metrics is not None and here().rank == 0:
        print_metrics(result.metrics)
    say(f"the model is in {result.model}, numbers, curves and pictures in {result.folder}")
    say(f"try it: htc predict PICTURE --model {result.folder}")


def _show_choices(dataset: "Dataset", choices: "Sequence[Choice]") -> None:
    """Print on stderr what was chosen and the rule of each choice: a table on a terminal, a line each elsewhere."""
    from rich.table import Table

    objects = sum(len(record.instances) for record in dataset.images)
    made = any("preset" in choice.fields for choice in choices)
    how = "Chosen for them (any flag or --preset decides otherwise):" if made else "The rest is as given, and so:"
    say(f"{len(dataset)} pictures, {objects} objects, {len(dataset.classes)} classes. {how}")
    rows = [
        (name, _text(value), "" if number else choice.rule)
        for choice in choices
        for number, (name, value) in enumerate(choice.fields.items())
    ]
    console = messages()
    if console.is_terminal and here().rank == 0:
        grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_column(overflow="fold", style="dim")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, rule in rows:
        say(f"  {name:{widths[0]}}  {value:{widths[1]}}  {rule}".rstrip())


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _name_of(data: Path | None) -> str:
    """A name for a run by its data."""
    path = Path() if data is None else data.absolute()
    return path.stem if path.suffix else path.name


def steps_of(bar: Callable[[int, int, str], None]) -> "Listener":
    """A training's steps and the sum of its losses on a progress bar."""
    from htc.training.record import Event, StepDone

    def show(event: Event) -> None:
        if isinstance(event, StepDone):
            bar(event.step, event.steps, f"loss {sum(event.losses.values()):.3f}")

    return show


def _fetch(weights: str | None, splits: "Splits") -> None:
    """Released weights are fetched with a progress bar, once the data are known to be usable."""
    if weights is None or not to_be_fetched(weights):
        return
    check_torch()
    from htc.data.coco import read_coco

    read_coco(splits.train_annotations, splits.train_images)
    if splits.val_annotations is not None and splits.val_images is not None:
        read_coco(splits.val_annotations, splits.val_images)
    fetch_weights(weights)


def _shortcuts(epochs: int | None, batch_size: int | None, lr: float | None) -> list[Setting]:
    given = (
        (("training", "epochs"), epochs, "--epochs"),
        (("training", "batch_size"), batch_size, "--batch-size"),
        (("training", "optimizer", "lr"), lr, "--lr"),
    )
    return [Setting(path, value, source) for path, value, source in given if value is not None]
