"""`htc benchmark`: speed and memory of a model on this machine."""

import os
import re
from dataclasses import replace
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.cli.model import measured_precision
from htc.cli.options import MODEL_OPTIONS, Count, Flags, JsonTarget, ModelOptions, Switch
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json
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
    """Measure the speed and memory of a model with random weights on this machine, and print Markdown tables.

    Parameters
    ----------
    parts
        components (times, operations, share of the machine's peak), pairs (implementations compared on the same
        input), training, memory. Default: all.
    size
        Padded input size for inference, HxW in multiples of 32. Default: 800x1344.
    threads
        Numbers of threads; 1 thread is timed in CPU time, several in wall-clock time. Default: 1.
    repeats
        Measurements of each part after a warm-up. Default: 5.
    quick
        Use a small model and few repeats, to test that everything runs; the timings are not meaningful.
    json
        Write the results to this JSON file; - is standard output, without the tables.
    """
    if size is not None:
        parsed_size(size)
    config = resolve(options.settings(flags), QUICK_PRESET if quick else DEFAULT_PRESET)
    if options.print_config:
        print(to_yaml(overlay(config, measured_precision(options))), end="")
        return
    check_json_target(json)
    # --threads does not limit numpy's threads, which would add to the CPU time of one thread while idle
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
    if options.precision is not None:  # measure the given precision only, without probing for the faster one
        wanted = options.precision
        precisions = (resolve_precision(wanted, device) if wanted == "auto" else wanted,)
    report = run_benchmark(
        config,
        amounts,
        parts=parts or BENCHMARK_PARTS,
        threads=threads or THREADS,
        precisions=precisions,
        device=str(device),
        progress=print_message,
    )
    print_or_write_json(json, as_json(report))
    if json != STDOUT:
        print(as_markdown(report))


def parsed_size(text: str) -> tuple[int, int]:
    """Parse a size such as `800x1344` into (height, width); raises `ConfigError` for any other format."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if match is None:
        raise ConfigError(f"--size {text}: give height x width in pixels, as in 800x1344")
    return int(match[1]), int(match[2])
