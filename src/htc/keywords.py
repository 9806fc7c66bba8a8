"""Names that a caller may misspell, options and classes: the error names the nearest ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any

from htc.errors import ConfigError

ELSEWHERE = {
    "conf": "score_threshold",
    "confidence": "score_threshold",
    "confidence_threshold": "score_threshold",
    "threshold": "score_threshold",
    "score_thr": "score_threshold",
    "max_det": "max_detections",
    "max_per_img": "max_detections",
    "imgsz": "short_edge",
    "batch": "batch_size",
    "num_workers": "workers",
    "data_root": "data",
    "lr0": "lr",
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "model": "preset",
    "pretrained": "weights",
    "project": "out",
    "time": "max_time",
}
"""Names of options in other libraries, and ours."""


def unknown_option(function: Callable[..., Any], unknown: Mapping[str, Any], further: Sequence[str] = ()) -> TypeError:
    """The error for an option that `function` does not have; it names the nearest of those it has, `further` included.

    A public function ends its parameters with `**unknown: Never` and raises this if anything arrives there: type
    checkers refuse an unknown option, and at run time the message helps.
    """
    kinds = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    options = [name for name, one in signature(function).parameters.items() if one.kind in kinds and name != "self"]
    options += further
    name = next(iter(unknown))
    meant = ELSEWHERE.get(name.lower())
    near = [meant] if meant in options else get_close_matches(name, options, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"its options are {', '.join(options)}"
    return TypeError(f"{function.__name__}() has no option {name!r}: {hint}")


def check_classes(wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raises `ConfigError` with near names for the first class name that a model does not have."""
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.5)
            all_names = f"its classes are {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
            hint = f"did you mean {' or '.join(near)}?" if near else all_names
            raise ConfigError(f"classes: this model has no class {name!r}; {hint}")
