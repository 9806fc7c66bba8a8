"""Decide what a training trains: the configuration given by the user, recorded by the run to resume, or chosen for the
dataset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from htc.checkpoint.load import load_model
from htc.config import Config
from htc.data.coco import Splits
from htc.data.dataset import Dataset
from htc.inference.device import choose_device
from htc.model.backbones.custom import with_custom
from htc.presets import DEFAULT_PRESET, PRESETS, preset
from htc.ranks import here
from htc.settings.layers import Setting, from_file, names_preset, overlay, resolve
from htc.training.auto_config import EVERY, Chosen, choose_config, recorded, stated, total_memory
from htc.training.events import Choice
from htc.training.finetune import fit_to_data
from htc.training.run import CONFIG, Options, read_dataset


@dataclass(frozen=True)
class TrainingPlan:
    """A resolved configuration for a dataset, and the choices that led to it."""

    dataset: Dataset
    """The training images."""
    config: Config
    """With the classes of the user or the preset; `htc.training.run.train` takes this one."""
    fitted: Config
    """With the classes of the dataset: what the run folder records."""
    chosen: tuple[Choice, ...]
    """What was chosen for the dataset; empty where a preset is named or a run is resumed."""
    evaluate_every: int
    """Epochs between two evaluations."""
    options: Options
    evaluation_rule: str | None
    """Why `evaluate_every` is what it is; None without validation images."""

    def choices(self) -> tuple[Choice, ...]:
        """Every choice with its rule, also those that follow from the configuration: learning rate, semantic targets,
        evaluations. Raises `ConfigError` for a backbone that cannot be built.
        """
        training, options = self.config.training, self.options
        images_per_step = training.batch_size * training.accumulate * here().ranks
        from_weights = options.weights is not None or options.resume
        found = [*self.chosen, *stated(self.fitted, options.semantic, images_per_step, from_weights=from_weights)]
        if self.evaluation_rule is not None:
            found.append(Choice({EVERY: self.evaluate_every}, self.evaluation_rule))
        return tuple(found)


def plan_training(
    splits: Splits,
    folder: Path,
    *,
    settings: Sequence[Setting] = (),
    options: Options,
    evaluate_every: int | None = None,
) -> TrainingPlan:
    """Resolve the configuration of a training in `folder`, and the epochs between evaluations where not given.

    A resumed run keeps its configuration; a preset named in `settings` decides everything; otherwise preset, input
    size, anchors, batch and epochs are chosen for the dataset. `settings` are laid over each of them. Raises
    `DataError`, `ConfigError` and `CheckpointError`.
    """
    dataset = read_dataset(splits, options)
    every, chosen, rule = evaluate_every or 1, (), "epochs, after which the validation images are measured"
    if options.resume:
        config = _recorded_config(folder, settings)
        every = evaluate_every or recorded(folder, EVERY, 1)
    elif names_preset(settings):
        config = resolve(settings, DEFAULT_PRESET)
    else:
        found = _chosen_for(dataset, settings, options)
        config, chosen, every = found.config, found.choices, evaluate_every or found.evaluate_every
        rule += "" if evaluate_every else "; about twenty times in all"
    if options.backbone is not None:
        config, _ = with_custom(config, options.backbone)
    fitted = fit_to_data(config, dataset, options.semantic)
    evaluated = splits.val_annotations is not None
    return TrainingPlan(dataset, config, fitted, chosen, every, options, rule if evaluated else None)


def _recorded_config(folder: Path, settings: Sequence[Setting]) -> Config:
    """The configuration of the run in `folder`, with the settings laid over it."""
    recorded_file = folder / CONFIG
    if not recorded_file.is_file():
        return resolve(settings, DEFAULT_PRESET)
    return overlay(resolve(from_file(recorded_file), DEFAULT_PRESET), settings)


def _chosen_for(dataset: Dataset, settings: Sequence[Setting], options: Options) -> Chosen:
    """The configuration for the dataset, the device and the weights to start from."""
    weights, start = options.weights, None
    if weights is not None:
        named = weights in PRESETS and not Path(weights).exists()
        start = weights, preset(weights) if named else load_model(weights).config
    return choose_config(dataset, settings, total_memory(choose_device(options.device)), start, here().ranks)
