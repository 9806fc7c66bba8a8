"""Memory of this process in MiB, as Linux reports it."""

from pathlib import Path

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""Written to /proc/self/clear_refs to reset the peak to the memory in use now."""


def is_reported() -> bool:
    """Whether the system reports the peak of a process (only Linux does)."""
    return STATUS.exists()


def reset_peak() -> float:
    """Reset the peak. -> memory in use"""
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    return _size(STATUS, "VmRSS")


def peak() -> float:
    """Largest memory in use since `reset_peak`."""
    return _size(STATUS, "VmHWM")


def shares() -> tuple[float, float]:
    """Memory in use. -> (PSS, in which a page of n processes counts 1/n; what this process has alone)"""
    rollup = Path("/proc/self/smaps_rollup")
    return _size(rollup, "Pss"), _size(rollup, "Private_Clean") + _size(rollup, "Private_Dirty")


def _size(file: Path, name: str) -> float:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
