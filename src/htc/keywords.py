"""Suggestions for misspelled options and classes in error messages."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any

from htc.errors import ConfigError

_SCORE, _MOST, _OUT, _SHORT = "score_threshold", "max_detections", "out", "short_edge"
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("conf", "confidence", "confidence_threshold", "conf_thres", "threshold", "score_thr", "score_thres", "thr"),
        (_SCORE, "inference.score_threshold"),
    ),
    **dict.fromkeys(("max_det", "max_per_img", "max_dets", "topk", "detections_per_img"), (_MOST,)),
    **dict.fromkeys(("imgsz", "img_size", "img_scale", "image_size"), (_SHORT, "input.short_edge")),
    **dict.fromkeys(("iou", "iou_thres", "iou_thr", "nms", "nms_thr"), ("inference.nms_iou",)),
    **dict.fromkeys(("batch", "bs", "ims_per_batch", "samples_per_gpu"), ("batch_size",)),
    **dict.fromkeys(("num_workers", "workers_per_gpu", "threads"), ("workers",)),
    **dict.fromkeys(("lr0", "learning_rate", "base_lr"), ("lr",)),
    **dict.fromkeys(("max_epochs", "num_epochs"), ("epochs",)),
    **dict.fromkeys(("project", "name", "save", "save_dir", "work_dir", "output", "output_dir", "out_dir"), (_OUT,)),
    **dict.fromkeys(("half", "amp", "fp16", "bf16", "mixed_precision"), ("precision bf16",)),
    **dict.fromkeys(("gpus", "num_gpus", "gpu", "gpu_id", "gpu_ids"), ("devices", "device")),
    **dict.fromkeys(("tta", "augment", "test_time_augmentation"), ("views",)),
    **dict.fromkeys(("source", "input", "image", "images", "img"), ("SOURCE",)),
    **dict.fromkeys(("pretrained", "checkpoint", "ckpt", "load_from"), ("weights", "model", "MODEL")),
    **dict.fromkeys(("cfg", "config_file"), ("config",)),
    **dict.fromkeys(("save_txt", "save_json"), ("json",)),
    **dict.fromkeys(("val_interval", "eval_interval", "eval_period"), ("evaluate_every",)),
    "cuda": ("device cuda",),
    "data": ("annotations", "DATA"),
    "dataset": ("data", "annotations", "DATA"),
    "data_root": ("data", "annotations", "DATA"),
    "model": ("preset", "MODEL"),
    "patience": ("training.early_stop",),
    "resume_from": ("resume",),
    "save_period": ("checkpoint_steps",),
    "time": ("max_time",),
    "weights": ("model", "MODEL", "SRC"),
}
"""Option names of other libraries, and the equivalents in this one, of which the first that a function or command has
is used.

An equivalent may include a value ("precision bf16"), be a configuration field ("inference.nms_iou"), or be an argument
without a flag ("SOURCE").
"""


def near_names(word: str, options: Collection[str], cutoff: float = 0.5) -> list[str]:
    """The equivalent in `options` of another library's name `word`, else the options with a similarity of at least
    `cutoff` (0..1).
    """
    for equivalent in ELSEWHERE.get(word.lower().replace("-", "_"), ()):
        if equivalent.split()[0] in options:
            return [equivalent]
    return get_close_matches(word, [name for name in options if "." not in name], n=2, cutoff=cutoff)


def unknown_option(function: Callable[..., Any], unknown: Mapping[str, Any], further: Sequence[str] = ()) -> TypeError:
    """Build the error for an option that `function` does not have, with the nearest of its options, including those in
    `further`.

    A public function ends its parameters with `**unknown: Never` and raises this error for anything in it: type
    checkers reject an unknown option, and at run time the message helps.
    """
    parameters = signature(function).parameters.items()
    options = [
        name
        for name, one in parameters
        if one.kind is Parameter.KEYWORD_ONLY
        or (one.kind is Parameter.POSITIONAL_OR_KEYWORD and one.default is not one.empty)
    ]
    options += further
    name = next(iter(unknown))
    near = near_names(name, options)
    hint = f"did you mean {' or '.join(map(_as_keyword, near))}?" if near else f"its options are {', '.join(options)}"
    return TypeError(f"{function.__name__}() has no option {name!r}: {hint}")


def _as_keyword(option: str) -> str:
    """`precision bf16` -> `precision='bf16'`."""
    name, _, value = option.partition(" ")
    return f"{name}={value!r}" if value else name


def check_classes(wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raise `ConfigError`, with similar names, for the first class name that the model does not have."""
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.5)
            all_names = f"its classes are {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
            hint = f"did you mean {' or '.join(near)}?" if near else all_names
            raise ConfigError(f"classes: this model has no class {name!r}; {hint}")
