"""`htc models`: list the presets and print their configurations."""

import json as json_format
from dataclasses import asdict
from typing import Any

from htc.checkpoint.zoo import RELEASED, Entry, cached, catalogue, weights_url
from htc.cli.options import JsonTarget, Name, Switch
from htc.cli.output import check_json_target, print_message, print_or_write_json, print_table
from htc.config import Config
from htc.files import cache_folder
from htc.presets import preset
from htc.settings.layers import to_yaml

COLUMNS = ("preset", "params", "GFLOP", "box", "mask", "published by", "measured")


def models(name: Name | None = None, /, *, json: JsonTarget = None, schema: Switch = False) -> int:
    """List the presets: parameters, operations, published AP and its source, AP of this library, and released weights.

    Parameters
    ----------
    name
        Print the configuration of this preset as YAML for --config.
    json
        Write the list to this JSON file; - is standard output.
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
    print_table((*COLUMNS, "weights"), [(*table_cells(entry), _status(entry)) for entry in entries])
    print_message(
        "\nparams: millions; GFLOP: for an image of 800x1333; box, mask: published AP on COCO val2017 (*: test-dev); "
        "published by: source of the AP"
    )
    print_message(
        "measured: box and mask AP of this library on the named dataset; commands to reproduce: htc models --json -"
    )
    print_message(f"released weights are downloaded at first use, to {cache_folder()}")
    print_message("URLs of the weights: htc models --json -    configuration of a preset: htc models NAME")
    return 0


def table_cells(entry: Entry) -> tuple[str, ...]:
    """Return a row of the table; the cells are in the order of `COLUMNS`."""
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


def _status(entry: Entry) -> str:
    return "cached" if _cached(entry) else "released" if weights_url(entry.name) is not None else ""


def _cached(entry: Entry) -> bool:
    return entry.name in RELEASED and cached(entry.name).exists()
