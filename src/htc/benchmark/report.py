"""Reports of a benchmark as Markdown tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from htc.benchmark.components import Components, ComponentTime
from htc.benchmark.measuring import Conditions
from htc.benchmark.memory import Memory
from htc.benchmark.pairs import Pair
from htc.benchmark.run import Report
from htc.benchmark.training_step import TrainingStep


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as a dictionary, in seconds, GFLOP and MiB."""
    return asdict(report)


def as_markdown(report: Report) -> str:
    """Format a line about the machine, and a table for each kind of measurement."""
    sections = ["Machine: " + ", ".join(f"{name} {value}" for name, value in report.machine.items()) + "."]
    sections += [_components(one) for one in report.components]
    if report.pairs:
        header = ("comparison", "setting", "A", "B", "A / B", "agreement")
        sections.append(_table("Paired comparisons", header, [_pair(pair) for pair in report.pairs]))
    if report.training:
        header = ("model", "setting", "instances", "time", "GFLOP", "of the peak")
        sections.append(_table("Training step, one image", header, [_step(step) for step in report.training]))
    if report.memory:
        header = ("task", "model", "setting", "detections or instances", "in use when ready", "peak above that")
        sections.append(
            _table("Peak memory, each in a separate process", header, [_memory(one) for one in report.memory])
        )
    return "\n\n".join(sections)


def _components(one: Components) -> str:
    title = f"{one.model}: {_conditions(one.setting)}; measured peak {one.peak_gflops_per_second:.0f} GFLOP/s"
    return _table(title, ("component", "time", "GFLOP", "GFLOP/s", "of the peak"), [_part(part) for part in one.parts])


def _part(part: ComponentTime) -> list[str]:
    if not part.gflop:
        return [part.name, _time(part.seconds), "", "", ""]
    return [
        part.name,
        _time(part.seconds),
        f"{part.gflop:.1f}",
        f"{part.gflops_per_second:.0f}",
        _percent(part.share_of_peak),
    ]


def _pair(pair: Pair) -> list[str]:
    sides = [
        f"{name}: {_time(seconds)}"
        for name, seconds in ((pair.first, pair.first_seconds), (pair.second, pair.second_seconds))
    ]
    checks = ", ".join(
        f"{name} {_percent(value) if value == 1 else f'{value:.1e}'}" for name, value in pair.checks.items()
    )
    return [pair.name, _conditions(pair.setting), *sides, f"**{pair.ratio:.2f}**", checks]


def _step(step: TrainingStep) -> list[str]:
    return [
        step.model,
        _conditions(step.setting),
        str(step.objects),
        _time(step.seconds),
        f"{step.gflop:.0f}",
        _percent(step.share_of_peak),
    ]


def _memory(one: Memory) -> list[str]:
    sizes = [f"{value:.0f} MiB" for value in (one.ready_mib, one.peak_above_mib)]
    return [one.what, one.model, _conditions(one.setting), str(one.count), *sizes]


def _conditions(setting: Conditions) -> str:
    """Format the conditions, as in `800x1344, bf16, 1 thread (processor time)`."""
    clock = "processor time" if setting.clock.kind == "cpu" else "wall time"
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    return f"{setting.size[0]}x{setting.size[1]}, {setting.precision}, {threads} ({clock})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
