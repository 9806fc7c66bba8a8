"""What the parser found wrong with a call, said in the words of the help."""

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

USAGE = {
    "models": "[NAME] [OPTIONS]",
    "predict": "SOURCE... --model MODEL [OPTIONS]",
    "train": "(--data DIR | --train-annotations FILE --train-images DIR) [OPTIONS]",
    "evaluate": "(MODEL... | --results FILE) --annotations FILE [OPTIONS]",
    "ablate": "--table N... (--data DIR | --train-annotations FILE --train-images DIR --val-annotations FILE "
    "--val-images "
    "DIR) [OPTIONS]",
    "convert": "SRC DST [OPTIONS]",
    "doctor": "ANNOTATIONS IMAGES [OPTIONS]",
}
"""How each verb is called, where the parser could not tell."""

NEEDED = {
    "--model": "name a preset (`htc models` lists them), a folder that `htc train` or `htc convert` wrote, or a "
    "weights file",
    "SRC": "name the checkpoint to convert",
    "DST": "name the folder to make",
    "ANNOTATIONS": "name the COCO annotations to examine, or the folder of a data set",
}
"""What to give for an argument without a default."""

SETTINGS = """Every field of the configuration can be set; each of these over the ones before:
  preset or model   --preset NAME, --model MODEL
  file              --config own.yaml
  environment       HTC_INFERENCE__NMS_IOU=0.6
  flag              --inference.nms_iou 0.6 --cascade.interleaved false
--print-config shows the result, `htc models --schema` all fields."""
"""Help below the flags of a verb that takes settings."""


def explain(error: CycloptsError) -> str:
    """The fault, and where the help is."""
    verb = " ".join(error.command_chain or ())
    return f"{_fault(error)}\n`{f'htc {verb}'.strip()} --help` shows what it takes"


def _fault(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        return (
            f"more arguments than `htc {' '.join(error.command_chain or ())}` takes: "
            f"{' '.join(error.unused_tokens or ())}"
        )
    if not isinstance(error, MissingArgumentError) or error.argument is None:
        return str(error)
    if error.keyword is not None or error.argument.tokens:
        return f"{error.keyword or error.argument.name} needs a value"
    near = str(error).partition("Did you mean ")[2]
    if near:
        return f"{error.argument.name} is missing; did you mean {near}"
    return f"{error.argument.name} is missing: {NEEDED.get(error.argument.name, 'it has no default')}"
