"""`htc benchmark`: how fast and how large a model is on this machine."""

import os
import re
from dataclasses import replace
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.cli.model import measured_precision
from htc.cli.options import MODEL_OPTIONS, Count, Flags, JsonTarget, ModelOptions, Switch
from htc.cli.output import STDOUT, check_json_target, print_or_write_json, say
from htc.config import Precision
from htc.errors import ConfigError
from htc.presets import DEFAULT_PRESET
from htc.settings.layers import overlay, resolve, to_yaml

QUICK_PRESET = "htc_r18_small"
THREADS = (1,)
Parts = Annotated[
    list[Literal["components", "pairs", "training", "memory"]], Parameter(consume_multiple=True, negative="")
]
Threads = Annotated[list[Count], Parameter(consume_multiple=True, negative="")]


def benchmark(
    parts: Parts | None = None,
    *,
    size: str | None = None,
    threads: Threads | None = None,
    repeats: Count | None = None,
    quick: Switch = False,
    json: JsonTarget = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> None:
    """Measure a model with random weights on this machine; the tables on standard output are Markdown.

    Parameters
    ----------
    parts
        components (times, operations, share of the machine's peak), pairs (comparisons on equal work), training,
        memory; all by default.
    size
        HxW of the padded image of the test path, multiples of 32; 800x1344 by default.
    threads
        One or more numbers: 1 is timed by the processor's clock, more by the wall's; 1 by default.
    repeats
        Measurements of everything, after a warm-up; 5 by default.
    quick
        A small model and little work: whether everything runs, not how fast.
    json
        File for the numbers; - is standard output, without the tables.
    """
    if size is not None:
        parsed_size(size)
    config = resolve(options.settings(flags), QUICK_PRESET if quick else DEFAULT_PRESET)
    if options.print_config:
        print(to_yaml(overlay(config, measured_precision(options))), end="")
        return
    check_json_target(json)
    # numpy's own threads follow no --threads: idle ones would spin on the processor's clock that times one thread
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from htc.benchmark.report import as_json, as_markdown
    from htc.benchmark.run import BENCHMARK_PARTS, QUICK, Amounts, run_benchmark
    from htc.inference.device import choose_device
    from htc.inference.precision import resolve_precision

    amounts = QUICK if quick else Amounts()
    amounts = replace(
        amounts, size=amounts.size if size is None else parsed_size(size), repeats=repeats or amounts.repeats
    )
    device = choose_device(options.device)
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if options.precision is not None:  # an explicit one is what is measured: no probe beforehand
        wanted = options.precision
        precisions = (resolve_precision(wanted, device) if wanted == "auto" else wanted,)
    report = run_benchmark(
        config,
        amounts,
        parts=parts or BENCHMARK_PARTS,
        threads=threads or THREADS,
        precisions=precisions,
        device=str(device),
        progress=say,
    )
    print_or_write_json(json, as_json(report))
    if json != STDOUT:
        print(as_markdown(report))


def parsed_size(text: str) -> tuple[int, int]:
    """(height, width) of `800x1344`; raises `ConfigError` for anything else."""
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if found is None:
        raise ConfigError(f"--size {text}: give height x width in pixels, as in 800x1344")
    return int(found[1]), int(found[2])
