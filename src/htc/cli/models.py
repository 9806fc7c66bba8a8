"""`htc models`: what can be named."""

import json as json_format
from dataclasses import asdict
from typing import Any

from htc.checkpoint.zoo import RELEASED, Entry, cache_folder, cached, catalogue, weights_url
from htc.cli.options import JsonTarget, Name, Switch
from htc.cli.output import check_json_target, print_or_write_json, print_table, say
from htc.config import Config
from htc.presets import preset
from htc.settings.layers import to_yaml

COLUMNS = ("preset", "params", "GFLOP", "box", "mask", "published by", "measured")


def models(name: Name | None = None, /, *, json: JsonTarget = None, schema: Switch = False) -> int:
    """List the presets: parameters, operations, published AP and whose, what was measured here, and where the weights
    are.

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
    entries = catalogue()
    if json is not None:
        print_or_write_json(json, [_row(entry) for entry in entries])
        return 0
    print_table((*COLUMNS, "weights"), [(*table_cells(entry), _place(entry)) for entry in entries])
    say(
        "\nparams: millions; GFLOP: of an image of 800x1333; box, mask: published AP on COCO val2017, * on test-dev, "
        "and whose"
    )
    say("measured: box and mask AP by this library, on that data; the command that gave them: htc models --json -")
    say(f"released weights are fetched at first use, into {cache_folder()}")
    say("their addresses: htc models --json -    a whole configuration: htc models NAME")
    return 0


def table_cells(entry: Entry) -> tuple[str, ...]:
    """One row of the table, as `COLUMNS` names them."""
    size = tuple("" if value is None else f"{value:.0f}" for value in (entry.parameters, entry.gflop))
    mark = "*" if entry.images == "test-dev" else ""
    ap = tuple("" if value is None else f"{value}{mark}" for value in (entry.box_ap, entry.mask_ap))
    here = entry.measured
    measured = "" if here is None else f"{here.box_ap} / {here.mask_ap} {here.data} {here.split}"
    return (entry.name, *size, *ap, entry.source or "", measured)


def _row(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {
        "url": weights_url(entry.name),
        "cached": str(cached(entry.name)) if _cached(entry) else None,
    }


def _place(entry: Entry) -> str:
    return "cached" if _cached(entry) else "released" if weights_url(entry.name) is not None else ""


def _cached(entry: Entry) -> bool:
    return entry.name in RELEASED and cached(entry.name).exists()
