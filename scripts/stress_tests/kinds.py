"""The stress tests by name. Each is imported when it runs, so that a wrong call ends at once."""

from importlib import import_module

from stress_tests.harness import Stress

NAMES = (
    *("checkpoints", "annotations", "images", "rle", "ap", "command-lines"),
    *("kill", "disk", "predict-resume", "large-image", "memory"),
)


def stress_test(name: str) -> Stress:
    """Import the stress test of that name."""
    return import_module(f"stress_tests.{name.replace('-', '_')}").STRESS
