"""The configuration of a training: given by the user, recorded in the run to resume, or derived from the dataset."""

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
from htc.training.auto_config import EVERY, Chosen, choose_config, derived_choices, recorded_choice, total_memory
from htc.training.events import Choice
from htc.training.finetune import fit_to_data
from htc.training.run import CONFIG, Options, read_dataset


@dataclass(frozen=True)
class TrainingPlan:
    """A resolved configuration for a dataset, and the choices that led to it."""

    dataset: Dataset
    """The training images."""
    config: Config
    """With the classes of the user or the preset; `htc.training.run.run_training` takes this one."""
    fitted: Config
    """With the classes of the dataset; recorded in the run folder."""
    chosen: tuple[Choice, ...]
    """The values derived from the dataset; empty if a preset is named or a run is resumed."""
    evaluate_every: int
    """Epochs between two evaluations."""
    options: Options
    evaluation_rule: str | None
    """The rule that set `evaluate_every`; None without validation images."""

    def choices(self) -> tuple[Choice, ...]:
        """Return every choice with its rule, including those that follow from the configuration: learning rate,
        semantic targets, evaluations. Raises `ConfigError` for a backbone that cannot be built.
        """
        training, options = self.config.training, self.options
        images_per_step = training.batch_size * training.accumulate * here().ranks
        from_weights = options.weights is not None or options.resume
        choices = [
            *self.chosen,
            *derived_choices(self.fitted, options.semantic, images_per_step, from_weights=from_weights),
        ]
        if self.evaluation_rule is not None:
            choices.append(Choice({EVERY: self.evaluate_every}, self.evaluation_rule))
        return tuple(choices)


def plan_training(
    splits: Splits,
    folder: Path,
    *,
    settings: Sequence[Setting] = (),
    options: Options,
    evaluate_every: int | None = None,
) -> TrainingPlan:
    """Resolve the configuration of a training in `folder`, and the epochs between evaluations if not given.

    A resumed run keeps its configuration; a preset named in `settings` sets every hyperparameter; otherwise preset,
    input size, anchors, batch size and epochs are derived from the dataset. `settings` override any of these. Raises
    `DataError`, `ConfigError` and `CheckpointError`.
    """
    dataset = read_dataset(splits, options)
    every, chosen, rule = evaluate_every or 1, (), "epochs between two evaluations on the validation images"
    if options.resume:
        config = _recorded_config(folder, settings)
        every = evaluate_every or recorded_choice(folder, EVERY, 1)
    elif names_preset(settings):
        config = resolve(settings, DEFAULT_PRESET)
    else:
        derived = _chosen_for(dataset, settings, options)
        config, chosen, every = derived.config, derived.choices, evaluate_every or derived.evaluate_every
        rule += "" if evaluate_every else "; about twenty evaluations in all"
    if options.backbone is not None:
        config, _ = with_custom(config, options.backbone)
    fitted = fit_to_data(config, dataset, options.semantic)
    evaluated = splits.val_annotations is not None
    return TrainingPlan(dataset, config, fitted, chosen, every, options, rule if evaluated else None)


def _recorded_config(folder: Path, settings: Sequence[Setting]) -> Config:
    """Read the configuration of the run in `folder` and apply the settings to it."""
    recorded_file = folder / CONFIG
    if not recorded_file.is_file():
        return resolve(settings, DEFAULT_PRESET)
    return overlay(resolve(from_file(recorded_file), DEFAULT_PRESET), settings)


def _chosen_for(dataset: Dataset, settings: Sequence[Setting], options: Options) -> Chosen:
    """Derive the configuration from the dataset, the device and the weights to start from."""
    weights, start = options.weights, None
    if weights is not None:
        named = weights in PRESETS and not Path(weights).exists()
        start = weights, preset(weights) if named else load_model(weights).config
    return choose_config(dataset, settings, total_memory(choose_device(options.device)), start, here().ranks)
