"""`htc convert`: convert a supported checkpoint to a native folder, with a report of every key, or a supported dataset
to COCO annotations.
"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.checkpoint.check import check_model, check_released
from htc.checkpoint.facts import Colors, UserFacts
from htc.cli.model import fetch_weights, measured_precision, print_config_of
from htc.cli.options import MODEL_OPTIONS, Flags, JsonTarget, LabelMaps, ModelOptions
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json
from htc.data.formats.map_rules import AUTO
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
    label_maps: LabelMaps = AUTO,
    json: JsonTarget = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Convert a checkpoint to a folder with config.json and model.safetensors, or a dataset to COCO annotation files.

    Parameters
    ----------
    source
        A checkpoint of mmdetection, detectron2 or torchvision (.pth), a .safetensors file, a native folder, or a preset
        with released weights; FILE#teacher is one of several models in a file. Or the folder of a dataset: YOLO
        (data.yaml), labelme (JSON files), label maps (images/ and masks/), Pascal VOC, Cityscapes, VIA and others; the
        images are not copied.
    destination
        The new folder.
    colors
        Channel order of the network's input, if a checkpoint of detectron2 or mmdetection does not record it.
    norm_epsilon
        Epsilon of the frozen batch norms of a torchvision checkpoint: 0 for the released ResNet-50 models and those
        fine-tuned from them (their default), 1e-5 for others.
    label_maps
        How label maps are read: auto decides from the maps; otherwise what is an instance, as in instances (each
        value), components (each connected region) or classes (values are classes), and which values are background and
        void: components,background=255,void=none.
    json
        Write the report of every tensor (used, renamed, reordered, dropped) to this JSON file; - is standard output.
    """
    settings = options.settings(flags)
    facts = UserFacts(colors, None if norm_epsilon is None else float(norm_epsilon))
    if options.print_config:
        return print_config_of(source, None, [*settings, *measured_precision(options)], facts)
    if is_data(source):
        facts.check(Path(source))
        return _convert_data(Path(source), destination, json, label_maps)
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
    print_message(f"model: {destination}\npredict with it: htc predict IMAGE --model {destination}")
    return 0


def is_data(source: str) -> bool:
    """Whether SRC is the folder of a dataset rather than a model."""
    folder = Path(source)
    if not source or not folder.is_dir():
        return False
    from htc.data.formats.recognize import is_known

    return is_known(folder)


def _check_destination(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(
            f"DST {destination} exists already, and nothing is overwritten; name another folder or remove it"
        )
    require_writable(destination, "DST")


def _convert_data(folder: Path, destination: Path, json: str | None, label_maps: str) -> int:
    """Write COCO annotations of the dataset to DST; the images are neither copied nor changed."""
    check_json_target(json)
    _check_destination(destination)
    from htc.data.formats.layouts import conversion_summary, convert_data

    converted = convert_data(folder, destination, label_maps)
    if json != STDOUT:
        print("\n".join(conversion_summary(converted)))
    print_or_write_json(json, converted.to_json())
    print_message(f"train on it: htc train {converted.training_flags}")
    return 0
