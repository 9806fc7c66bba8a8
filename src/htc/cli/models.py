"""`htc models`: what can be named."""

import json as json_format

from htc.checkpoint.zoo import RELEASED, cache_folder, cached, weights_url
from htc.cli.options import JsonTarget, Name, Switch
from htc.cli.output import check_json_target, say, table, write_json
from htc.config import Config
from htc.presets import PRESETS, preset
from htc.settings import to_yaml


def models(name: Name | None = None, /, *, json: JsonTarget = None, schema: Switch = False) -> int:
    """List the presets, their published AP on COCO val2017, and where their weights are.

    Parameters
    ----------
    name
        Print the whole configuration of this preset, as YAML for --config.
    json
        Write the list to this file; - is standard output.
    schema
        Print the JSON schema of the configuration, for editors.
    """
    check_json_target(json)
    if schema:
        print(json_format.dumps(Config.model_json_schema(), indent=2))
        return 0
    if name is not None:
        print(to_yaml(preset(name)), end="")
        return 0
    rows = [_row(preset_name) for preset_name in PRESETS]
    if json is not None:
        write_json(json, rows)
        return 0
    table(
        ("preset", "box AP", "mask AP", "weights"),
        [(str(row["name"]), _number(row["box_ap"]), _number(row["mask_ap"]), _place(row)) for row in rows],
    )
    say(f"\nreleased weights are fetched at first use, into {cache_folder()}")
    say("their addresses: htc models --json -    a whole configuration: htc models NAME")
    return 0


def _row(name: str) -> dict[str, str | float | None]:
    release = RELEASED.get(name)
    here = None if release is None or not cached(name).exists() else str(cached(name))
    return {
        "name": name,
        "box_ap": release and release.box_ap,
        "mask_ap": release and release.mask_ap,
        "url": weights_url(name),
        "cached": here,
    }


def _number(value: str | float | None) -> str:
    return "" if value is None else f"{value}"


def _place(row: dict[str, str | float | None]) -> str:
    if row["cached"] is not None:
        return "in the cache"
    return "released" if row["url"] is not None else "to be trained"
