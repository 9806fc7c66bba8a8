"""What `htc train` trains: as the user says, as the run to resume says, or as the data ask for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.cli.output import messages, say
from htc.presets import PRESETS, preset
from htc.ranks import here
from htc.settings.layers import Setting, from_file, overlay, resolve

if TYPE_CHECKING:
    from htc.config import Config
    from htc.data.dataset import Dataset
    from htc.training.auto_config import Choice, Chosen


def names_preset(settings: Sequence[Setting]) -> bool:
    """Whether the user says which preset; then nothing else is chosen."""
    return any(setting.path == ("preset",) for setting in settings)


def resumed(folder: Path, settings: Sequence[Setting], default: str) -> "Config":
    """The configuration of the training in `folder`, with the settings laid over it."""
    from htc.training.run import CONFIG

    own = folder / CONFIG
    return overlay(resolve(from_file(own), default), settings) if own.is_file() else resolve(settings, default)


def chosen(dataset: "Dataset", settings: Sequence[Setting], device: str, weights: str | None) -> "Chosen":
    """The configuration for the data, and each choice made."""
    from htc.checkpoint.load import load_model
    from htc.inference.load import choose_device
    from htc.training.auto_config import choose_config, total_memory

    start = None
    if weights is not None:
        start = (
            weights,
            preset(weights) if weights in PRESETS and not Path(weights).exists() else load_model(weights).config,
        )
    return choose_config(dataset, settings, total_memory(choose_device(device)), start, here().ranks)


def show_choices(dataset: "Dataset", choices: Sequence["Choice"]) -> None:
    """On stderr: what was chosen, and the rule it followed; a table on a terminal, a line each elsewhere."""
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
    return (
        ", ".join(map(_text, value))
        if isinstance(value, list | tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
