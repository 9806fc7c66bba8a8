"""`htc evaluate`: COCO metrics of a model, of an ensemble, or of any tool's result file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from htc.cli.existing import check_files, check_folders
from htc.cli.metrics import print_metrics
from htc.cli.model import check_named_models, load_named_models, print_config_of
from htc.cli.options import (
    MODEL_OPTIONS,
    Count,
    File,
    Flags,
    Folder,
    JsonTarget,
    LabelMaps,
    ModelOptions,
    Name,
    Natural,
    Switch,
    Words,
)
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json, progress
from htc.cli.semantic import NO_MAPS, MapFlags
from htc.compatibility import check_torch
from htc.data.formats.map_rules import AUTO
from htc.errors import ConfigError
from htc.evaluation.files import has_objects
from htc.evaluation.request import EvaluationRequest
from htc.run_folders import require_new_file
from htc.settings.layers import Setting


def evaluate(
    model: Annotated[list[str] | None, Parameter(name="MODEL", negative="")] = None,
    /,
    *,
    data: Folder | None = None,
    split: Name = "val",
    annotations: File | None = None,
    images: Folder | None = None,
    label_maps: LabelMaps = AUTO,
    weights: Name | None = None,
    views: Annotated[str | None, Parameter(metavar="SPEC")] = None,
    results: File | None = None,
    against: File | None = None,
    stages: Words | None = None,
    save_results: File | None = None,
    max_detections: Count | None = None,
    batch_size: Count = 1,
    workers: Natural = 0,
    semantic: Annotated[str | None, Parameter(metavar="auto|DIR")] = None,
    map_flags: MapFlags = NO_MAPS,
    panoptic_json: File | None = None,
    panoptic_dir: Folder | None = None,
    save_panoptic: Folder | None = None,
    diagnostics: Switch = False,
    html: File | None = None,
    json: JsonTarget = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Compute COCO's average precision of boxes and masks on annotated images, and further metrics on request.

    Parameters
    ----------
    model
        A preset name, a folder that `htc train` or `htc convert` wrote, or a .pth or .safetensors file; several models
        evaluate the ensemble and each of its members.
    data
        Folder of the dataset, as for `htc train`.
    split
        The part of --data to evaluate on: val, train or test.
    annotations
        COCO annotations, in place of --data.
    images
        Folder of their images. Default: by COCO's layout (val for annotations/instances_val.json), else the folder of
        the annotations.
    label_maps
        How the label maps of --data are read, as for `htc train`.
    weights
        A weights file, or the name of a preset with released weights, for a preset as MODEL. FILE#teacher is one of
        several models in a file.
    views
        Views for test-time augmentation: scales or sizes, then :flip, as in 0.75,1,1.25:flip or 600x900,800x1200:flip;
        paper for the paper's ten.
    results
        A COCO result file of any tool, instead of a model.
    against
        Another COCO result file of the same images; reports the difference in AP with its 95 % interval.
    stages
        Also evaluate these mask stages, each alone or averaged: 1 2 3 1-3 (the paper's Table 4); 1,3 averages two.
    save_results
        Write the COCO results to this new file, also for images without annotations such as COCO's test images.
    max_detections
        Maximum detections of an image that are evaluated. Default: the model's own, or 100 for a result file
        (300 for LVIS).
    batch_size
        Images in a forward pass.
    workers
        Processes that load images; 0 loads them in this process.
    semantic
        Also evaluate the semantic map: auto against maps derived from the instances, DIR against PNG maps.
    panoptic_json
        Also evaluate the panoptic maps (merged instances and semantic map) against these COCO panoptic annotations of
        the same images.
    panoptic_dir
        Folder of their PNGs. Default: the folder beside the JSON file with its name.
    save_panoptic
        Write the panoptic maps to this new folder: a PNG for each image, and panoptic.json.
    diagnostics
        Also compute boundary AP, score thresholds, calibration, confusion, errors by kind, and AP by IoU and size.
    html
        Write the diagnostics, curves and images with the most errors to this new HTML file.
    json
        Write all metrics, 0 to 1 (-1: undefined), to this JSON file; - is standard output.
    """
    settings = options.settings(flags)
    if options.print_config and model:
        return print_config_of(model[0], weights, settings)
    models = model or []
    request = EvaluationRequest(
        data=data,
        split=split,
        annotations=annotations,
        images=images,
        label_maps=label_maps,
        results=results,
        views=views,
        against=against,
        stages=tuple(stages or ()),
        save_results=save_results,
        max_detections=max_detections,
        batch_size=batch_size,
        workers=workers,
        semantic=map_flags.evaluated(semantic),
        panoptic_json=panoptic_json,
        panoptic_dir=panoptic_dir,
        save_panoptic=save_panoptic,
        diagnostics=diagnostics,
        html=html,
    )
    request.check(len(models))
    if models:
        check_named_models(models, weights, views, settings)
    check_json_target(json)
    for target, flag in ((save_results, "--save-results"), (html, "--html")):
        if target is not None:
            require_new_file(target, flag)
    check_files(
        {"--annotations": annotations, "--results": results, "--against": against, "--panoptic-json": panoptic_json}
    )
    check_folders({"--data": data, "--images": images, "--panoptic-dir": panoptic_dir})
    if models and annotations is not None and not has_objects(annotations):
        _save_results(models, weights, options, settings, request)
        return 0
    check_torch()
    from htc.evaluation.evaluate import run_evaluation

    with progress("evaluate") as bar:
        metrics = run_evaluation(
            models,
            request,
            bar,
            weights=weights,
            device=options.device,
            precision=options.precision,
            settings=settings,
        ).to_dict()
    if json != STDOUT:
        print_metrics(metrics)
    print_or_write_json(json, metrics)
    return 0


def _save_results(
    models: Sequence[str],
    weights: str | None,
    options: ModelOptions,
    settings: Sequence[Setting],
    request: EvaluationRequest,
) -> None:
    """Write the COCO results of images without annotations, such as test images that a server evaluates."""
    from htc.evaluation.evaluation import write_predictions

    annotations, save = Path(str(request.annotations)), request.save_results
    if save is None:
        raise ConfigError(
            f"{annotations} has no annotations, so nothing can be evaluated; --save-results FILE writes the results"
        )
    if request.stages or request.with_diagnostics or request.maps or request.against is not None:
        raise ConfigError(
            f"{annotations} has no annotations, so nothing can be evaluated: remove --stages, --against, "
            f"--diagnostics, --html and the flags of semantic and panoptic maps"
        )
    views = None if request.views is None else str(request.views)
    if request.max_detections is not None:
        settings = [*settings, Setting(("inference", "max_detections"), request.max_detections, "--max-detections")]
    predictor, _ = load_named_models(models, weights, views, settings, options)
    images = None if request.images is None else Path(request.images)
    with progress("evaluate") as bar:
        count = write_predictions(
            predictor,
            annotations,
            images,
            Path(save),
            batch_size=request.batch_size,
            workers=request.workers,
            progress=bar,
        )
    print_message(
        f"{annotations.name} has no annotations, so nothing was evaluated; wrote {count} results to {save}, for an "
        f"evaluation server"
    )
