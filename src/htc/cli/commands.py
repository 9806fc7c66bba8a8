"""The commands of `htc`: groups, usage, examples, renamed flags, and the names of commands in other libraries.

Imports nothing that is slow, so that `htc --help` and the message for an unknown command are fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

GROUPS = ("Start", "Data", "Train and evaluate", "Predict and deploy", "Machine")
Example = tuple[str, str]
"""(the arguments after `htc`, a description of the call)."""


@dataclass(frozen=True)
class Command:
    """A command, implemented by the function of the same name in `htc.cli.<name>`."""

    name: str
    group: str
    summary: str
    """One line for the list of `htc --help`."""
    usage: str | None = None
    """The usage line, if the one that the parser generates would be wrong."""
    examples: Sequence[Example] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Old flags, accepted for one release: {old: new}."""


VIEWS = {"--augment": "--views"}
_ALL = (
    Command(
        "demo",
        "Start",
        "Train a small HTC on bundled images, evaluate it and predict.",
    ),
    Command(
        "models",
        "Start",
        "List the presets: size, published AP, released weights.",
        "[NAME] [OPTIONS]",
        (
            ("models", "all presets"),
            ("models htc_r50_fpn_20e_coco", "the configuration of a preset, as YAML for --config"),
            ("models --schema", "every field of the configuration"),
        ),
    ),
    Command(
        "doctor",
        "Data",
        "Check a dataset: faults, their consequences and fixes.",
        "DATA [IMAGES] [OPTIONS]",
        (
            ("doctor my_data", "training and validation set"),
            ("doctor train.json images --fix fixed.json", "write the corrected annotations"),
        ),
    ),
    Command(
        "convert",
        "Data",
        "Convert a checkpoint to htc's format, or a dataset to COCO.",
        "SRC DST [OPTIONS]",
        (
            ("convert htc_r50_fpn_20e_coco my_model", "released weights"),
            ("convert model_final.pth my_model --colors bgr", "weights of another library"),
            ("convert my_yolo_data as_coco", "YOLO, labelme or label maps"),
        ),
        {"--colours": "--colors"},
    ),
    Command(
        "train",
        "Train and evaluate",
        "Train a model on your data.",
        "(--data DIR | --train-annotations FILE --train-images DIR) [OPTIONS]",
        (
            ("train --data my_data", "preset and hyperparameters are chosen from the data"),
            ("train --data my_data --weights htc_r50_fpn_20e_coco", "fine-tune released weights"),
            ("train --data my_data --out runs/train/my_data --resume", "resume an interrupted training"),
        ),
    ),
    Command(
        "evaluate",
        "Train and evaluate",
        "Compute the COCO metrics of a model or of a result file.",
        "(MODEL... | --results FILE) --annotations FILE [OPTIONS]",
        (
            ("evaluate runs/train/my_data --annotations val.json --images val", "a trained model"),
            ("evaluate A B --annotations val.json --images val", "an ensemble and each of its members"),
            ("evaluate --results results.json --annotations val.json", "the result file of any tool"),
        ),
        VIEWS,
    ),
    Command(
        "ablate",
        "Train and evaluate",
        "Train the paper's ablation tables on any dataset.",
        "--table N... (--data DIR | --train-annotations FILE --train-images DIR --val-annotations FILE --val-images "
        "DIR) [OPTIONS]",
        (("ablate --table 2 --data my_data --seeds 0", "each component of HTC, one training each"),),
    ),
    Command(
        "predict",
        "Predict and deploy",
        "Predict on images: drawings, COCO results, labelme files.",
        "SOURCE... --model MODEL [OPTIONS]",
        (
            ("predict photos --model htc_r50_fpn_20e_coco", "a folder, with released weights"),
            (
                "predict 'photos/**/*.jpg' --model runs/train/my_data --json results.json",
                "with COCO results",
            ),
            ("predict a.jpg --model A --model B --views 1:flip", "an ensemble, with flipped views"),
        ),
        VIEWS,
    ),
    Command(
        "export",
        "Predict and deploy",
        "Export a model to ONNX or OpenVINO, with a certificate.",
        "MODEL FILE [OPTIONS]",
        (
            ("export runs/train/my_data model.onnx", "a file for ONNX Runtime, compared with the model"),
            ("export runs/train/my_data model.xml", "for OpenVINO"),
            ("export runs/train/my_data model.onnx --annotations val.json --images val", "with the AP of both"),
        ),
    ),
    Command(
        "benchmark",
        "Machine",
        "Measure speed and memory on this machine.",
        examples=(
            ("benchmark --quick", "test that everything runs"),
            ("benchmark components --threads 1 4", "the components of the network, with 1 and 4 threads"),
        ),
    ),
)
COMMANDS = {command.name: command for command in _ALL}

MEANT = {
    **dict.fromkeys(("val", "validate", "test", "eval", "score", "metrics", "analyze"), "evaluate"),
    **dict.fromkeys(("detect", "segment", "infer", "inference", "run", "track", "visualize"), "predict"),
    **dict.fromkeys(("check", "checks", "verify", "lint", "inspect", "browse"), "doctor"),
    **dict.fromkeys(("fit", "finetune", "tune", "resume", "fine-tune"), "train"),
    **dict.fromkeys(("import", "upgrade", "migrate", "publish"), "convert"),
    **dict.fromkeys(("deploy", "onnx", "openvino", "compile"), "export"),
    **dict.fromkeys(("bench", "speed", "profile", "flops", "latency"), "benchmark"),
    **dict.fromkeys(("zoo", "presets", "list", "download", "info", "config", "cfg"), "models"),
    **dict.fromkeys(("example", "examples", "quickstart", "tutorial"), "demo"),
}
"""Commands of other libraries, and the command of `htc` that corresponds to each."""


def unknown_command(word: str) -> str:
    """Return the message for an unknown command."""
    near = [MEANT[word.lower()]] if word.lower() in MEANT else get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean `htc {near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
    return f"there is no command `{word}`; {hint}\n`htc --help` lists the commands"


def with_current_flags(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Replace renamed flags; return the arguments and the replaced (old, new) pairs."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    current: list[str] = []
    replaced: list[tuple[str, str]] = []
    for argument in arguments[:end]:
        name, equals, value = argument.partition("=")
        new = command.renamed.get(name)
        if new is not None:
            replaced.append((name, new))
        current.append(argument if new is None else f"{new}{equals}{value}")
    return [*current, *arguments[end:]], replaced


OVERVIEW = """Examples:

    htc demo                                          # test the installation
    htc predict photos --model htc_r50_fpn_20e_coco   # released weights
    htc doctor my_data                                # check a dataset
    htc train --data my_data                          # train on it
    htc predict photos --model runs/train/my_data     # use the trained model

`htc COMMAND --help` shows the options of a command, with examples."""
SETTINGS = """Every field of the configuration can be set; later sources override earlier ones:

    preset or model   --preset NAME, --model MODEL
    file              --config own.yaml
    environment       HTC_INFERENCE__NMS_IOU=0.6
    flag              --inference.nms_iou 0.6 --cascade.interleaved false

--print-config prints the result, `htc models --schema` all fields."""
"""Help text below the flags of a command that takes settings."""


def epilogue(command: Command, *, settings: bool) -> str:
    """Return the examples and, if the command takes settings, how to set them."""
    lines = [line for call, what in command.examples for line in _lines(call, what)]
    parts = ["\n".join(["Examples:", "", *lines])] if lines else []
    return "\n\n".join([*parts, SETTINGS] if settings else parts)


def _lines(call: str, what: str) -> list[str]:
    """Format an example: a comment with its description above the call."""
    return ([f"    # {what}"] if what else []) + [f"    htc {call}"]
