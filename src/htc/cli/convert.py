"""`htc convert`: any supported checkpoint into a native folder, with a report of every key."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from htc.cli.model import check_model, check_released, fetch_weights, print_config_of
from htc.cli.options import Flags, JsonTarget, ModelOptions
from htc.cli.output import STDOUT, check_json_target, require_writable, say, write_json
from htc.errors import OutputError
from htc.settings import nested

DEFAULTS = ModelOptions()


def convert(
    source: Annotated[str, Parameter(name="SRC")],
    destination: Annotated[Path, Parameter(name="DST")],
    /,
    *,
    json: JsonTarget = None,
    options: ModelOptions = DEFAULTS,
    flags: Flags = (),
) -> int:
    """Turn a checkpoint into a folder of config.json and model.safetensors.

    Parameters
    ----------
    source
        A checkpoint of the original (.pth), a .safetensors file, a native folder, or a preset with released weights.
    destination
        The folder to make.
    json
        Write the report of every tensor (used, renamed, reordered, dropped) to this file; - is standard output.
    """
    settings = options.settings(flags)
    if options.print_config:
        return print_config_of(source, None, settings)
    check_model(source, None, settings)
    check_released(source, None)
    check_json_target(json)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(f"DST {destination} exists already, and nothing is overwritten; name another folder or remove it")
    require_writable(destination, "DST")
    fetch_weights(source)
    from htc.checkpoint.load import load_model
    from htc.checkpoint.native import save_pretrained

    loaded = load_model(source, overrides=nested(settings))
    save_pretrained(loaded.state_dict, loaded.config, destination)
    if json != STDOUT:
        print("\n".join(loaded.report.lines()))
    write_json(json, loaded.report.to_json())
    say(f"the model is in {destination}; try: htc predict PICTURE --model {destination}")
    return 0
