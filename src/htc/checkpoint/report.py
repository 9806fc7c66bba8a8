"""What became of every tensor of a weights file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from htc.errors import CheckpointError

_SHOWN = 8


@dataclass(frozen=True)
class KeyReport:
    """Names are the file's where a file name is meant, ours otherwise. A usable file has no missing, unexpected or
    mismatched.
    """

    used: tuple[str, ...] = ()
    """Our names that got a tensor from the file."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(file's name, our name)."""
    reordered: tuple[tuple[str, str], ...] = ()
    """(our name, what was done to its rows)."""
    dropped: tuple[tuple[str, str], ...] = ()
    """(file's name, reason)."""
    filled: tuple[tuple[str, str], ...] = ()
    """(our name, reason): not in the file, but known without it."""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    """One sentence each, with both shapes."""
    notes: tuple[str, ...] = ()
    """What else the user should know about this file."""

    @property
    def fits(self) -> bool:
        """Whether every tensor found its place and none is missing."""
        return not (self.missing or self.unexpected or self.mismatched)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for `--json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary for people: counts, then what was dropped and why."""
        counts = {
            "used": len(self.used),
            "renamed": len(self.renamed),
            "reordered": len(self.reordered),
            "dropped": len(self.dropped),
            "filled": len(self.filled),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
        }
        reasons: dict[str, list[str]] = {}
        for name, reason in (*self.dropped, *self.filled, *self.reordered):
            reasons.setdefault(reason, []).append(name)
        details = [f"{reason}: {_some(names)}" for reason, names in reasons.items()]
        return [", ".join(f"{count} {what}" for what, count in counts.items()), *details, *self.notes]

    def require_fit(self, source: str) -> None:
        """Raise `CheckpointError` naming the tensors if anything is missing, unexpected or of another shape."""
        if self.fits:
            return
        faults = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.mismatched}
        lines = [f"{len(names)} tensors {what}: {_some(names)}" for what, names in faults.items() if names]
        raise CheckpointError(
            "\n  ".join(
                [
                    f"{source}: the weights do not fit the model",
                    *lines,
                    "use the preset or configuration they belong to",
                ]
            )
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of tensors or tensor references."""
    return {name: tuple(value.shape) for name, value in state.items()}
