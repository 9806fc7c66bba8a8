"""`htc.evaluate`: the metrics of a model, of several models and their ensemble, or of a result file."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from htc.checkpoint.check import check_models, to_be_fetched
from htc.checkpoint.zoo import fetch
from htc.config import Config
from htc.data.coco import read_coco
from htc.data.formats.layouts import locate_split
from htc.data.formats.map_rules import AUTO
from htc.data.semantic_maps import MapSources, semantic_sources
from htc.errors import ConfigError
from htc.evaluation.bootstrap import DRAWS
from htc.evaluation.comparison import is_federated
from htc.evaluation.evaluation import (
    Evaluation,
    EvaluationData,
    evaluate_predictor,
    images_folder,
    member_names,
    read_checked_results,
    read_other_results,
    score_results,
)
from htc.evaluation.files import read_annotations
from htc.evaluation.maps import MapRequest
from htc.evaluation.request import EvaluationRequest
from htc.evaluation.run import match_categories, parse_stages
from htc.files import optional_path
from htc.inference.load import Models, load_members, named_models
from htc.inference.views import View, parse_views
from htc.metrics import Metrics
from htc.progress import NamedProgress, ProgressOption, reporting
from htc.run_folders import folder_for, require_new_file
from htc.settings.layers import Setting
from htc.settings.python import Overrides, check_overrides, python_settings

if TYPE_CHECKING:
    import torch

    from htc.data.dataset import Dataset
    from htc.inference.precision import PrecisionChoice
    from htc.inference.predictor import ImagePredictor

LOG = logging.getLogger("htc")
DETECTIONS_OF_A_FILE = 100
"""Maximum detections of an image and class in the evaluation of a result file, as in COCO's own evaluation."""
DETECTIONS_OF_LVIS = 300
"""Maximum detections of an image, as in LVIS's own evaluation."""


def evaluate(
    model: Models | None = None,
    data: "str | Path | Dataset | Mapping[str, Dataset] | None" = None,
    *,
    split: str = "val",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    label_maps: str = AUTO,
    results: str | Path | None = None,
    weights: str | Path | None = None,
    views: str | Sequence[View] | None = None,
    against: str | Path | None = None,
    stages: Sequence[str] = (),
    save_results: str | Path | None = None,
    max_detections: int | None = None,
    batch_size: int = 1,
    workers: int = 0,
    semantic: Literal["auto"] | str | Path | MapSources | None = None,
    semantic_json: str | Path | None = None,
    semantic_panoptic: str | Path | None = None,
    semantic_instances: int | Literal["ids"] | None = None,
    panoptic_json: str | Path | None = None,
    panoptic_dir: str | Path | None = None,
    save_panoptic: str | Path | None = None,
    diagnostics: bool = False,
    html: str | Path | None = None,
    device: "str | int | torch.device" = "auto",
    precision: "PrecisionChoice | None" = None,
    config: Config | str | Path | None = None,
    progress: ProgressOption = True,
    **overrides: Unpack[Overrides],
) -> Metrics:
    """Compute COCO's average precision of boxes and masks on annotated images, and further metrics on request.

    Args:
        model: a predictor, or what `htc.load` takes; a list evaluates the ensemble and each of its members.
        data: a folder (COCO, YOLO, labelme, label maps and other formats), an `htc.Dataset`, or a dictionary of
            datasets by split.
        split: the part of `data` to evaluate on: "val", "train" or "test".
        annotations: a COCO annotation file, in place of `data`.
        images: the folder of its images. `None`: by COCO's layout, else the folder of the annotations.
        label_maps: how the label maps of `data` are read, as in `htc.train`.
        results: a COCO result file of any tool, instead of a model.
        weights: a weights file, or a preset with released weights, for a preset as model.
        views: views for test-time augmentation: scales, then flips, as in "0.75,1,1.25:flip"; "paper" for the
            paper's ten.
        against: another COCO result file of the same images; reports the difference in AP with its 95 % interval.
        stages: also evaluate these mask stages, each alone or averaged: ("1", "2", "1-3").
        save_results: write the COCO results to this new file.
        max_detections: maximum detections of an image that are evaluated. `None`: the model's own, or 100 for a result
            file (300 for LVIS).
        batch_size: images in a forward pass.
        workers: processes that load images; 0 loads them in this process.
        semantic: also evaluate the semantic map: "auto" against maps derived from the instances, or a folder of PNG
            maps.
        semantic_json: COCO panoptic annotations that describe the maps.
        semantic_panoptic: the folder of their PNGs, which are drawn over the maps of `semantic`.
        semantic_instances: draw the instances over the maps, class k (from 0) as this value + k, or "ids" for category
            id - 1.
        panoptic_json: also evaluate the panoptic maps (merged instances and semantic map) against these COCO panoptic
            annotations of the same images.
        panoptic_dir: the folder of their PNGs. `None`: the folder beside the JSON file with its name.
        save_panoptic: write the panoptic maps to this new folder.
        diagnostics: also compute boundary AP, score thresholds, calibration, confusion and errors by kind.
        html: write the diagnostics and images to this new HTML file.
        device: the device of a model given by name or path.
        precision: its precision; `None` and "auto": the model's own, which evaluation does not change.
        config: settings of a model given by name or path: a YAML or JSON file, or a whole configuration.
        progress: `True` shows a bar, `False` nothing; a function is called with (done, total, member).
        **overrides: sections of the configuration of a model given by name or path.

    Raises:
        DataError: annotations, images or results cannot be used, or the model does not have one of the categories.
        ConfigError: an option cannot be used, or conflicts with another.
        CheckpointError: the model cannot be loaded.
        OutputError: a file cannot be written, or exists already.
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> metrics = htc.evaluate("runs/train/my_data", "my_data")
        >>> metrics.mask.ap, metrics.box.ap50
        (0.383, 0.702)
        >>> htc.evaluate([model_a, model_b], "my_data").members["model_b"].mask.ap
        0.379
    """
    check_overrides(evaluate, overrides)
    models = named_models(model)
    given = {"weights": weights, "config": config, "precision": precision, **overrides}
    given["device"] = None if device == "auto" else device
    own = [name for name, value in given.items() if value is not None]
    if own and not any(isinstance(one, str | Path) for one in models):
        raise ConfigError(f"{', '.join(own)}: only for a model given by name or path; this model is already loaded")
    request = EvaluationRequest(
        data=data,
        split=split,
        annotations=annotations,
        images=images,
        label_maps=label_maps,
        results=results,
        views=views,
        against=against,
        stages=(stages,) if isinstance(stages, str) else tuple(map(str, stages)),
        save_results=save_results,
        max_detections=max_detections,
        batch_size=batch_size,
        workers=workers,
        semantic=semantic_sources(semantic, semantic_json, semantic_panoptic, semantic_instances),
        panoptic_json=panoptic_json,
        panoptic_dir=panoptic_dir,
        save_panoptic=save_panoptic,
        diagnostics=diagnostics,
        html=html,
    )
    request.check(len(models))
    named = any(isinstance(one, str | Path) for one in models)
    settings = python_settings(config, overrides, "htc.evaluate") if named else []
    with reporting(progress, "evaluate") as report:
        return run_evaluation(
            models, request, report, weights=weights, device=device, precision=precision, settings=settings
        )


def run_evaluation(
    models: "Sequence[str | Path | ImagePredictor[Any]]",
    request: EvaluationRequest,
    report: NamedProgress,
    *,
    weights: str | Path | None = None,
    device: "str | int | torch.device" = "auto",
    precision: "PrecisionChoice | None" = None,
    settings: Sequence[Setting] = (),
) -> Metrics:
    """Evaluate as `htc.evaluate` does; names are loaded with `weights`, `device`, `precision` and `settings`.

    Requires that `request.check` has passed. Written files are logged to the logger "htc".
    """
    for name in ("save_results", "html"):
        target = getattr(request, name)
        if target is not None:
            require_new_file(Path(target), name)
    with ExitStack() as stack:
        annotations, images = _located(request, stack)
        ground_truth = read_annotations(annotations)
        others = None if request.against is None else read_other_results(ground_truth, Path(request.against))
        if request.results is not None:
            evaluation, name, paths = _of_results(request, annotations, images, ground_truth)
        else:
            data = EvaluationData(annotations, images, ground_truth, read_coco(annotations, images))
            loading = (weights, device, precision, settings)
            evaluation, name, paths = _of_models(models, request, data, report, loading)
        if request.html is not None:
            evaluation.write_page(Path(request.html), f"{name} on {annotations.name}", paths)
            LOG.info("page: %s", request.html)
        if others is not None:
            LOG.info("resampling the images %d times for the interval of the difference", DRAWS)
            evaluation = evaluation.compared_with(others)
        return Metrics(evaluation.to_dict())


def _located(request: EvaluationRequest, stack: ExitStack) -> tuple[Path, Path]:
    """Return the annotation file and the folder of the images; other formats are converted into a temporary folder that
    `stack` removes.
    """
    if request.annotations is not None:
        annotations = Path(request.annotations)
        return annotations, images_folder(annotations) if request.images is None else Path(request.images)
    assert request.data is not None  # `request.check` has passed
    converted = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="htc-evaluate-")))
    return locate_split(request.data, request.split, converted, LOG.info, request.label_maps)


def _of_results(
    request: EvaluationRequest, annotations: Path, images: Path, ground_truth: Mapping[str, Any]
) -> tuple[Evaluation, str, Mapping[int | str, Path] | None]:
    """Evaluate a result file. Its images are only needed for the page, which has none if their folder is unknown."""
    assert request.results is not None
    paths = None
    if request.html is not None and (request.images is not None or images != annotations.parent):
        paths = {record.id: record.path for record in read_coco(annotations, images).images}
    elif request.html is not None:
        LOG.info("the page will have no images; to add them, pass images (--images DIR)")
    results = Path(request.results)
    default = DETECTIONS_OF_LVIS if is_federated(ground_truth) else DETECTIONS_OF_A_FILE
    max_detections = request.max_detections or default
    evaluation = score_results(
        ground_truth,
        read_checked_results(ground_truth, results),
        max_detections=max_detections,
        diagnostics=request.with_diagnostics,
    )
    return evaluation, results.name, paths


def _of_models(
    models: "Sequence[str | Path | ImagePredictor[Any]]",
    request: EvaluationRequest,
    data: EvaluationData,
    report: NamedProgress,
    loading: tuple[Any, Any, Any, Sequence[Setting]],
) -> tuple[Evaluation, str, Mapping[int | str, Path]]:
    """Evaluate a model, or an ensemble and each of its members."""
    save = None if request.save_panoptic is None else folder_for("evaluate", "panoptic", Path(request.save_panoptic))
    weights, device, precision, settings = loading
    model_config = check_models([str(one) for one in models if isinstance(one, str | Path)], _name(weights), settings)
    if model_config is not None:
        match_categories(model_config.classes, data.ground_truth)  # before a long download
    for name in dict.fromkeys(_name(weights) or str(one) for one in models if isinstance(one, str | Path)):
        if to_be_fetched(name):
            fetch(
                name, progress=lambda done, total, name=name: report(done >> 20, (total or 0) >> 20, f"MiB of {name}")
            )
    if request.max_detections is not None:
        limit = Setting(("inference", "max_detections"), request.max_detections, "max_detections")
        settings = [*settings, limit]
    views = parse_views(request.views) if isinstance(request.views, str) else request.views
    own = None if precision == "auto" else precision  # an evaluation does not change the model's precision
    predictor, members = load_members(models, weights, views, device, own, settings=settings)
    evaluation = evaluate_predictor(
        predictor,
        data,
        members=dict(zip(member_names(models), members, strict=True)) if len(members) > 1 else None,
        stages=list(dict.fromkeys(parse_stages(text) for text in request.stages)),
        maps=MapRequest(
            request.semantic, optional_path(request.panoptic_json), optional_path(request.panoptic_dir), save
        ),
        diagnostics=request.with_diagnostics,
        save_results=optional_path(request.save_results),
        max_detections=request.max_detections,
        batch_size=request.batch_size,
        workers=request.workers,
        progress=report,
    )
    if save is not None:
        LOG.info("panoptic maps: %s", save)
    if request.save_results is not None:
        LOG.info("%d results: %s", len(evaluation.results), request.save_results)
    name = " and ".join(Path(model).name if isinstance(model, str | Path) else "model" for model in models)
    return evaluation, name, {record.id: record.path for record in data.dataset.images}


def _name(weights: str | Path | None) -> str | None:
    return None if weights is None else str(weights)
