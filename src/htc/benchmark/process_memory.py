"""Memory of this process as Linux reports it, in MiB. Imports no torch, whose libraries take more than most data."""

from pathlib import Path

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""Written to /proc/self/clear_refs to reset the peak to the memory in use now."""


def reset_peak() -> float:
    """Reset the peak of this process to the memory in use now, and return that."""
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    return _size(STATUS, "VmRSS")


def peak() -> float:
    """The peak since `reset_peak`."""
    return _size(STATUS, "VmHWM")


def shares() -> tuple[float, float]:
    """(PSS, private): this process's share of its memory, in which a page of n processes counts 1/n, and what it has
    alone.
    """
    rollup = Path("/proc/self/smaps_rollup")
    return _size(rollup, "Pss"), _size(rollup, "Private_Clean") + _size(rollup, "Private_Dirty")


def _size(file: Path, name: str) -> float:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
