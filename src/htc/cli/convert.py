"""`htc convert`: any supported checkpoint into a native folder, with a report of every key; any known data set into
COCO files.
"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.checkpoint.check import check_model, check_released
from htc.checkpoint.facts import Colors, UserFacts
from htc.cli.model import fetch_weights, measured_precision, print_config_of
from htc.cli.options import MODEL_OPTIONS, Flags, JsonTarget, ModelOptions
from htc.cli.output import STDOUT, check_json_target, print_or_write_json, say
from htc.errors import OutputError
from htc.run_folders import require_writable
from htc.settings.layers import nested


def convert(
    source: Annotated[str, Parameter(name="SRC")],
    destination: Annotated[Path, Parameter(name="DST")],
    /,
    *,
    colors: Colors | None = None,
    norm_epsilon: Literal["0", "1e-5"] | None = None,
    json: JsonTarget = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Turn a checkpoint into a folder of config.json and model.safetensors, or a data set into COCO annotation files.

    Parameters
    ----------
    source
        A checkpoint of the original (.pth), a .safetensors file, a native folder, or a preset with released weights. Or
        a folder with data:
        YOLO's data.yaml, labelme's JSON files, or label maps (images/ and masks/); its images stay where they are.
    destination
        The folder to make.
    colors
        Channel order of the network's input, for a file of detectron2 or mmdetection that does not record it.
    norm_epsilon
        Of the frozen norms of a torchvision file: 0 in its released ResNet-50 and what was trained from it (the default
        there), else 1e-5.
    json
        Write the report of every tensor (used, renamed, reordered, dropped) to this file; - is standard output.
    """
    settings = options.settings(flags)
    facts = UserFacts(colors, None if norm_epsilon is None else float(norm_epsilon))
    if options.print_config:
        return print_config_of(source, None, [*settings, *measured_precision(options)], facts)
    if is_data(source):
        facts.check(Path(source))
        return _convert_data(Path(source), destination, json)
    check_model(source, None, settings)
    check_released(source, None)
    check_json_target(json)
    _check_destination(destination)
    settings += measured_precision(options)
    fetch_weights(source)
    from htc.checkpoint.load import convert_checkpoint

    loaded = convert_checkpoint(source, destination, nested(settings), facts)
    if json != STDOUT:
        print("\n".join(loaded.report.lines()))
    print_or_write_json(json, loaded.report.to_json())
    say(f"the model is in {destination}; try: htc predict IMAGE --model {destination}")
    return 0


def is_data(source: str) -> bool:
    """Whether SRC is a folder with a data set, not a model."""
    folder = Path(source)
    if not source or not folder.is_dir():
        return False
    from htc.data.formats.layouts import is_known

    return is_known(folder)


def _check_destination(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(
            f"DST {destination} exists already, and nothing is overwritten; name another folder or remove it"
        )
    require_writable(destination, "DST")


def _convert_data(folder: Path, destination: Path, json: str | None) -> int:
    """Annotation files below DST; images are neither copied nor changed."""
    check_json_target(json)
    _check_destination(destination)
    from htc.data.formats.layouts import conversion_summary, convert_data

    converted = convert_data(folder, destination)
    if json != STDOUT:
        print("\n".join(conversion_summary(converted)))
    print_or_write_json(json, converted.to_json())
    say(f"train on it: htc train {converted.training_flags}")
    return 0
