"""Functions and commands share names and defaults: each parameter is a flag, each flag a parameter, or stands here."""

import inspect

import pytest

import htc
from htc.checkpoint.zoo import list_models
from htc.checks.doctor import doctor
from htc.cli.app import build
from htc.evaluation.evaluate import EvaluationRequest, evaluate
from htc.exporting.export import export
from htc.inference.load import ensemble, load
from htc.inference.predictor import ImagePredictor
from htc.training.request import TrainingRequest
from htc.training.train import train

PYTHON_ONLY = {
    "train": {
        "backbone": "an object",
        "transforms": "an object",
        "callbacks": "objects",
        "loggers": "--logger, or objects",
        "progress": "the command always shows it",
        "overrides": "--any.field",
    },
    "evaluate": {"progress": "the command always shows it", "overrides": "--any.field"},
    "export": {"progress": "the command always shows it", "overrides": "--any.field"},
    "doctor": {"progress": "the command always shows it"},
    "predict": {
        "sources": "SOURCE, files and folders",
        "channels": "files know theirs",
        "semantic": "the command writes no semantic maps",
        "on_error": "the command reports and skips them, and ends with 1",
    },
    "models": {"pattern": "NAME prints one configuration", "released": "a column of the table"},
}
COMMAND_ONLY = {
    "train": {"logger": "loggers=", "print_config": "resolve and print"},
    "evaluate": {"json": "Metrics.to_dict()", "print_config": "resolve and print"},
    "export": {"json": "Certificate.to_dict()", "print_config": "resolve and print"},
    "doctor": {"json": "DoctorReport.to_dict()"},
    "predict": {
        "model": "htc.load",
        "weights": "htc.load",
        "views": "htc.ensemble",
        "config": "htc.load",
        "device": "htc.load",
        "precision": "htc.load",
        "annotations": "ids of the results",
        "out": "Detections.save",
        "draw": "Detections.draw",
        "json": "Detections.to_coco",
        "labelme": "Detections.to_labelme",
        "polygons": "Masks.polygons",
        "print_config": "resolve and print",
        "resume": "of a call, whose results are in files; in Python they are yielded one by one",
        "source": "sources",
    },
    "models": {"name": "htc.Config", "json": "a file", "schema": "Config.model_json_schema"},
}
OTHER_DEFAULTS = {
    ("predict", "score_threshold"): "0.5 for drawings as in Python; with None the command knows that none was given",
    ("predict", "max_pixels"): "None is Python's default",
    ("train", "data"): "given by position or by name",
}
FUNCTIONS = {
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "doctor": doctor,
    "predict": ImagePredictor.predict_many,
    "models": list_models,
}


def parameters(function):
    skipped = (inspect.Parameter.VAR_KEYWORD,)
    found = {
        name: one.default
        for name, one in inspect.signature(function).parameters.items()
        if name not in ("self", "unknown") and one.kind not in skipped
    }
    if any(name == "overrides" for name in inspect.signature(function).parameters):
        found["overrides"] = inspect.Parameter.empty
    return found


def flags(command):
    found = {}
    for argument in build()[command].assemble_argument_collection():
        if (
            not argument.names or "*" in argument.names or argument.names[0] == "--flags"
        ):  # a group of flags, whose members come by themselves
            continue
        name = argument.names[0].lstrip("-").replace("-", "_").lower()
        found[name] = argument.field_info.default
    return found


@pytest.mark.parametrize("command", FUNCTIONS)
def test_every_parameter_is_a_flag_and_every_flag_a_parameter(command):
    ours, theirs = parameters(FUNCTIONS[command]), flags(command)
    assert set(ours) - set(theirs) == set(PYTHON_ONLY[command])
    assert set(theirs) - set(ours) == set(COMMAND_ONLY[command])


@pytest.mark.parametrize("command", FUNCTIONS)
def test_defaults_are_the_same(command):
    ours, theirs = parameters(FUNCTIONS[command]), flags(command)
    for name in sorted(set(ours) & set(theirs)):
        if (command, name) in OTHER_DEFAULTS:
            continue
        values = [None if value in ((), inspect.Parameter.empty) else value for value in (ours[name], theirs[name])]
        assert values[0] == values[1], f"{name}: {values}"


@pytest.mark.parametrize(("request_type", "function"), [(TrainingRequest, train), (EvaluationRequest, evaluate)])
def test_a_request_has_the_function_s_defaults(request_type, function):
    ours = parameters(function)
    fields = {name: one.default for name, one in inspect.signature(request_type).parameters.items()}
    assert set(fields) - set(ours) <= {"settings", "started"}
    for name in set(fields) & set(ours):
        assert fields[name] == ours[name], name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: htc.load("x", devce="cpu"), r"load\(\) has no option 'devce': did you mean device"),
        (lambda: htc.load("x", wieghts="cpu"), "did you mean weights"),
        (lambda: htc.load("x", inferense={}), "did you mean inference"),
        (lambda: htc.train("x", epoch=3), r"train\(\) has no option 'epoch': did you mean epochs"),
        (lambda: htc.train("x", imgsz=3), "has no option 'imgsz'"),
        (lambda: htc.train("x", lr0=3), "did you mean lr"),
        (lambda: htc.train("x", batch=3), "did you mean batch_size"),
        (lambda: htc.evaluate("x", "y", batch=3), "did you mean batch_size"),
        (lambda: htc.evaluate("x", "y", max_det=3), "did you mean max_detections"),
        (lambda: htc.doctor("x", fixx="y"), "did you mean fix"),
        (lambda: htc.export("x", "y.onnx", batchsize=2), "did you mean batch"),
        (lambda: htc.ensemble([], view="1:flip"), "did you mean views"),
        (lambda: htc.list_models(release=True), "did you mean released"),
    ],
)
def test_a_misspelt_option_names_the_nearest(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("function", [load, ensemble, *FUNCTIONS.values()])
def test_options_are_keyword_only_and_documented(function):
    for name, one in inspect.signature(function).parameters.items():
        if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            allowed = (*("self", "model", "models", "data", "images", "sources", "pattern", "file"), "score_threshold")
            assert name in allowed, name
    documented = inspect.getdoc(function)
    if function is not ImagePredictor.predict_many:
        for name in parameters(function):
            assert f"{name}:" in documented, name
    assert "Example:" in documented
