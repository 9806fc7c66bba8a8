"""`htc train`: train a model on a dataset."""

from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.cli.existing import check_files, check_folders
from htc.cli.metrics import print_metrics
from htc.cli.options import (
    MODEL_OPTIONS,
    Above,
    Count,
    File,
    Flags,
    Folder,
    LabelMaps,
    ModelOptions,
    Name,
    Natural,
    Percentile,
    Switch,
    Words,
    Workers,
)
from htc.cli.output import print_message
from htc.cli.semantic import NO_MAPS, MapFlags
from htc.data.formats.map_rules import AUTO
from htc.ranks import here
from htc.settings.layers import Setting, names_preset, to_yaml
from htc.training.display import displaying
from htc.training.events import Event, Listener, StepDone
from htc.training.request import TrainingRequest
from htc.training.train import percentile_settings, preparing, run_request, schedule_settings


def train(
    data: Folder | None = None,
    *,
    val_share: Annotated[Above | None, Parameter(metavar="SHARE")] = None,
    folds: Count | None = None,
    train_annotations: File | None = None,
    train_images: Folder | None = None,
    val_annotations: File | None = None,
    val_images: Folder | None = None,
    label_maps: LabelMaps = AUTO,
    coco_holes: Literal["on", "off"] = "on",
    preset: Name | None = None,
    weights: Annotated[str | None, Parameter(metavar="none|imagenet|coco|NAME|FILE")] = None,
    semantic: Annotated[str, Parameter(metavar="auto|none|DIR")] = "auto",
    maps: MapFlags = NO_MAPS,
    out: Folder | None = None,
    epochs: Count | None = None,
    evaluate_every: Count | None = None,
    max_time: Annotated[Above | None, Parameter(metavar="MINUTES")] = None,
    batch_size: Count | None = None,
    lr: float | None = None,
    percentile: Percentile | None = None,
    seed: Natural = 0,
    workers: Workers = "auto",
    resume: Switch = False,
    checkpoint_steps: Count | None = None,
    devices: Count = 1,
    nodes: Count = 1,
    logger: Words | None = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Train a model on a dataset.

    Without --preset, the model, the input size, the anchors, the batch size and the number of epochs are chosen for the
    dataset, and each choice is printed with its rule.

    Parameters
    ----------
    data
        Folder of the dataset: COCO (annotations/instances_{train,val}.json with {train,val}/, COCO's own layout, or
        Roboflow's), YOLO (data.yaml), labelme (JSON files), label maps (images/ and masks/), Pascal VOC, Cityscapes,
        VIA and others (docs/guides/formats.md).
    val_share
        Hold out this share of the training images (0 to 1) for validation, if --data has no validation set.
    folds
        Cross-validation without validation images: AP with its spread over so many folds of the training images, and a
        model trained on all of them for the folds' median best epoch.
    train_annotations
        COCO annotations to train on, in place of --data.
    train_images
        Folder of their images.
    val_annotations
        COCO annotations to evaluate on.
    val_images
        Folder of their images.
    label_maps
        How label maps are read: auto decides from the maps; otherwise what is an instance, as in instances (each
        value), components (each connected region) or classes (values are classes), and which values are background and
        void: components,background=255,void=none.
    coco_holes
        on: a polygon of COCO's JSON wholly inside another, of the opposite orientation, is a hole; off: polygons are a
        union, as COCO's own metrics have them.
    preset
        The model and its schedule; `htc models` lists all. Default: chosen for the dataset.
    weights
        Start from these weights: a preset with released weights, a folder, a file, or FILE#teacher for one of several
        models in it; coco: released COCO weights; imagenet: ImageNet weights of the backbone; none: random weights.
        Default, without --preset: the best of these that is reachable and that the device can train. Layers that depend
        on the classes keep the rows of classes with the same name; the others start from random values.
    semantic
        Targets of the semantic branch: auto derives them from the instances, none removes the branch, DIR holds PNG
        maps.
    out
        The run folder. Default: runs/train/NAME, NAME being the preset's or the dataset's.
    epochs
        Passes over the training images. Default: the preset's, or chosen for the dataset.
    evaluate_every
        Epochs between two evaluations. Default: 1, or about twenty evaluations in all if the epochs are chosen.
    max_time
        Minutes from the command to the model, within 5 %. They decide the number of steps and, unless you set them or
        a preset, the input size and the crop.
    batch_size
        Images of one process in a step. Default: the preset's.
    lr
        Learning rate. SGD scales it linearly with the images per step, LR being for 16; AdamW takes it as it is.
        Default: the preset's.
    percentile
        Percentiles (0 to 100) of 16-bit and float images that become 0 and 255, as in 0.1,99.9; stored with the
        weights. Default: the preset's range, --input.intensity.
    seed
        The same seed on the same machine gives the same weights.
    workers
        Processes that load images; 0 loads them in the training process, auto decides by measuring the first steps.
    resume
        Continue the run in --out DIR exactly from its last checkpoint.
    checkpoint_steps
        Also write a checkpoint every so many steps, besides those of every minute, of every epoch and at the end.
    devices
        Processes on this machine that train together, each on its own GPU (or on the CPU). Not needed under torchrun
        and srun.
    nodes
        Machines that train together; each needs MASTER_ADDR, MASTER_PORT and NODE_RANK in its environment
        (docs/guides/many-gpus.md).
    logger
        Log losses and metrics to tensorboard, wandb or mlflow; several can be given.
    """
    settings = [
        *options.settings(flags),
        *schedule_settings(epochs, batch_size, lr, "--"),
        *percentile_settings(percentile, "--percentile"),
    ]
    if preset is not None:
        settings.append(Setting(("preset",), preset, "--preset"))
    request = TrainingRequest(
        settings=settings,
        data=data,
        val_share=val_share,
        folds=folds,
        train_annotations=train_annotations,
        train_images=train_images,
        val_annotations=val_annotations,
        val_images=val_images,
        label_maps=label_maps,
        coco_holes=coco_holes,
        weights=weights,
        semantic=maps.targets(semantic),
        out=out,
        evaluate_every=evaluate_every,
        max_time=max_time,
        seed=seed,
        workers=workers,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        devices=devices,
        nodes=nodes,
        device=options.device,
        precision=options.precision,
        loggers=tuple(logger or ()),
    )
    given = request.check()
    if options.print_config and (names_preset(settings) or not request.has_data):
        print(to_yaml(given), end="")
        return 0
    check_files({"--train-annotations": train_annotations, "--val-annotations": val_annotations})
    check_folders({"--data": data, "--train-images": train_images, "--val-images": val_images})
    with displaying(True) as listener:
        if options.print_config:
            with preparing(request, listener) as prepared:
                print(to_yaml(prepared.plan.fitted), end="")
            return 0
        result = run_request(request, listener)
    if result.metrics is not None and here().rank == 0:
        print_metrics(result.metrics.to_dict())
    print_message(f"predict with it: htc predict IMAGE --model {result.folder}")
    return 0


def steps_of(bar: Callable[[int, int, str], None]) -> Listener:
    """Return a listener that shows the steps and the total loss of a training on a progress bar."""

    def show(event: Event) -> None:
        if isinstance(event, StepDone):
            bar(event.step, event.steps, f"loss {sum(event.losses.values()):.3f}")

    return show
