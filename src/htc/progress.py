"""The type of the progress callbacks that long computations take."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total) after each item."""
