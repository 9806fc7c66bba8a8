"""`htc ablate`: the paper's ablation tables on any dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from htc.cli.model import measured_precision
from htc.cli.options import (
    MODEL_OPTIONS,
    Above,
    Count,
    File,
    Flags,
    Folder,
    JsonTarget,
    LabelMaps,
    ModelOptions,
    Name,
    Natural,
)
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json, print_table, progress
from htc.cli.train import steps_of
from htc.compatibility import check_torch
from htc.config import Config
from htc.data.formats.map_rules import AUTO
from htc.errors import ConfigError
from htc.extras import require
from htc.settings.layers import Setting, overlay, resolve, to_yaml

if TYPE_CHECKING:
    from htc.ablation.run import RowResult
    from htc.ablation.tables import AblationTable

ABLATION_PRESET = "htc_r50_fpn_20e_paper"
IntList = Annotated[list[int], Parameter(consume_multiple=True, negative="")]


def ablate(
    *,
    table: Annotated[list[int], Parameter(name="--table", consume_multiple=True, negative="", metavar="1..8")],
    data: Folder | None = None,
    train_annotations: File | None = None,
    train_images: Folder | None = None,
    val_annotations: File | None = None,
    val_images: Folder | None = None,
    label_maps: LabelMaps = AUTO,
    preset: Name | None = None,
    rows: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="", metavar="NAME")] = None,
    out: Folder | None = None,
    seeds: IntList | None = None,
    epochs: Count | None = None,
    max_time: Annotated[Above | None, Parameter(metavar="MINUTES")] = None,
    batch_size: Count | None = None,
    workers: Natural = 0,
    json: JsonTarget = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Train the rows of the paper's ablation tables on any dataset and compare their AP.

    All rows are evaluated with the same score threshold (0.001) and matching rule. Rows with the same configuration are
    trained once. Repeating the call resumes an interrupted ablation.

    Parameters
    ----------
    table
        1: Mask R-CNN, Cascade Mask R-CNN, HTC. 2: each component. 3: interleaved execution. 4: mask flow, masks by
        stage. 5: semantic fusion. 6: weight of the semantic loss. 7: the extensions, added one after another. 8: PAFPN,
        ASPP, GCN, precise RoI pooling, Soft-NMS, adaptive feature pooling, finer masks, recursive pyramid, switchable
        atrous convolution, each alone. Several tables can be given.
    data
        Folder of the dataset, as for `htc train`.
    train_annotations
        COCO annotations to train on, in place of --data.
    train_images
        Folder of their images.
    val_annotations
        COCO annotations to evaluate on.
    val_images
        Folder of their images.
    label_maps
        How label maps are read, as for `htc train`.
    preset
        The full model; each row changes or removes some of its components. Default: htc_r50_fpn_20e_paper.
    rows
        Train only the rows whose names contain one of these words, and the rows they are compared with. Default: all
        rows.
    out
        Folder of the trainings and tables; give the same folder to resume. Default: runs/ablate/PRESET.
    seeds
        Seeds; each row is trained once with each of them. Default: 0 1 2.
    epochs
        Passes over the training images in each training. Default: the preset's.
    max_time
        Start no further training after this many minutes.
    batch_size
        Images of one process in a step. Default: the preset's.
    workers
        Processes that load images; 0 loads them in the training process.
    json
        Write the tables, with AP from 0 to 1, to this JSON file; - is standard output.
    """
    settings = options.settings(flags)
    if preset is not None:
        settings.append(Setting(("preset",), preset, "--preset"))
    given = ((("training", "epochs"), epochs, "--epochs"), (("training", "batch_size"), batch_size, "--batch-size"))
    settings += [Setting(path, value, flag) for path, value, flag in given if value is not None]
    base = resolve(settings, ABLATION_PRESET)
    if options.print_config:
        print(to_yaml(overlay(base, measured_precision(options))), end="")
        return 0
    if seeds is not None and len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds {' '.join(map(str, seeds))}: a seed is repeated; give each seed once")
    require("train", "an ablation")
    check_json_target(json)
    from htc.ablation.tables import ablation_table as table_of

    def tables_of(base: Config) -> "list[AblationTable]":
        tables = [table_of(number, base) for number in dict.fromkeys(table)]
        return tables if rows is None else [one.only(rows) for one in tables]

    tables_of(base)  # report rows that no table contains before reading any data
    from htc.data.formats.layouts import locate_splits

    splits = locate_splits(
        data=data,
        train_annotations=train_annotations,
        train_images=train_images,
        val_annotations=val_annotations,
        val_images=val_images,
        label_maps=label_maps,
        say=print_message,
    )
    check_torch()
    tables = tables_of(overlay(base, measured_precision(options)))
    from htc.ablation.run import Budget, run_ablation, truth_of

    budget = Budget(tuple(seeds or (0, 1, 2)), max_time, options.device, workers)
    folder = out or Path("runs", "ablate", base.preset)
    with progress("ablate") as bar:
        results = run_ablation(tables, splits, folder, budget, print_message, steps_of(bar))
    reports = [_report(one, results[one.number], truth_of(splits), folder, quiet=json == STDOUT) for one in tables]
    print_or_write_json(json, reports)
    missing = sum(len(one.rows) * len(budget.seeds) - len(results[one.number]) for one in tables)
    if missing:
        print_message(f"{missing} rows x seeds are not trained yet: repeat the same command to resume")
    print_message(f"tables and trainings: {folder}")
    return 1 if missing else 0


def _report(
    one: "AblationTable", results: "Sequence[RowResult]", ground_truth: Mapping[str, Any], folder: Path, *, quiet: bool
) -> dict[str, Any]:
    """Compute, print and write one table; return its JSON content."""
    from htc import files
    from htc.ablation.report import content, headings, lines_of, markdown, row_cells

    lines = lines_of(one, results, ground_truth)
    if not quiet:
        print(f"Table {one.number}: {one.title}")
        print_table(headings(one), row_cells(one, lines))
        print()
    table = content(one, lines)
    files.write_json(folder / f"table{one.number}.json", table)
    with files.whole_file(folder / f"table{one.number}.md") as writer:
        writer.write(markdown(one, lines).encode())
    return table
