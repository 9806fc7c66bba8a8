"""`htc models`: what can be named."""

import json as json_format
from dataclasses import asdict

from htc.checkpoint.catalogue import Entry, catalogue
from htc.checkpoint.zoo import RELEASED, cache_folder, cached, weights_url
from htc.cli.options import JsonTarget, Name, Switch
from htc.cli.output import check_json_target, say, table, write_json
from htc.config import Config
from htc.presets import preset
from htc.settings import to_yaml


def models(name: Name | None = None, /, *, json: JsonTarget = None, schema: Switch = False) -> int:
    """List the presets: parameters, operations, published AP, and where their weights are.

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
    rows = [_row(entry) for entry in catalogue()]
    if json is not None:
        write_json(json, rows)
        return 0
    table(("preset", "params", "GFLOP", "box", "mask", "weights"), [_line(row) for row in rows])
    say("\nparams: millions; GFLOP: of a picture of 800x1333; box, mask: published AP on COCO val2017, * on test-dev (sources: --json -)")
    say(f"released weights are fetched at first use, into {cache_folder()}")
    say("their addresses: htc models --json -    a whole configuration: htc models NAME")
    return 0


def _row(entry: Entry) -> dict[str, str | float | None]:
    here = cached(entry.name) if entry.name in RELEASED else None
    return asdict(entry) | {"url": weights_url(entry.name), "cached": str(here) if here is not None and here.exists() else None}


def _line(row: dict[str, str | float | None]) -> tuple[str, ...]:
    size = tuple("" if row[name] is None else f"{row[name]:.0f}" for name in ("parameters", "gflop"))
    mark = "*" if row["pictures"] == "test-dev" else ""
    ap = tuple("" if row[name] is None else f"{row[name]}{mark}" for name in ("box_ap", "mask_ap"))
    place = "cached" if row["cached"] is not None else "released" if row["url"] is not None else ""
    return (str(row["name"]), *size, *ap, place)
