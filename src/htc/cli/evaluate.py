"""`htc evaluate`: COCO numbers of a model, or of any tool's result file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from htc.cli.existing import check_files, check_folders
from htc.cli.metrics import print_metrics
from htc.cli.model import check_named_models, load_named_models, print_config_of, settings_of
from htc.cli.options import MODEL_OPTIONS, Count, File, Flags, Folder, JsonTarget, ModelOptions, Name, Switch, Words
from htc.cli.output import STDOUT, check_json_target, folder_for, print_or_write_json, progress, say
from htc.cli.semantic import NO_MAPS, MapFlags
from htc.compatibility import check_torch
from htc.errors import ConfigError
from htc.settings.layers import Setting

if TYPE_CHECKING:
    from htc.data.semantic_maps import MapSources
    from htc.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Asked:
    """The flags of a call beside the model."""

    annotations: Path
    images: Path | None
    stages: Sequence[tuple[int, ...]]
    save: Path | None
    batch_size: int
    diagnostics: bool
    html: Path | None
    semantic: "Literal['auto'] | MapSources | None"
    panoptic_json: Path | None
    panoptic_dir: Path | None
    save_panoptic: Path | None
    views: str | None
    against: Path | None

    @property
    def maps(self) -> bool:
        """Whether semantic or panoptic maps are measured or written."""
        return (self.semantic, self.panoptic_json, self.save_panoptic) != (None, None, None)

    def check(self, models: Sequence[str]) -> None:
        """Raise `ConfigError` for flags that exclude each other."""
        if self.panoptic_dir is not None and self.panoptic_json is None:
            raise ConfigError("--panoptic-dir holds the maps of --panoptic-json FILE, which is missing")
        if self.maps and not models:
            raise ConfigError(
                "--semantic, --panoptic-json and --save-panoptic need a MODEL: a result file has no semantic maps"
            )
        if self.maps and self.stages:
            raise ConfigError(
                "--stages measures masks of single stages alone: leave out --semantic, --panoptic-json and "
                "--save-panoptic"
            )
        if (self.stages or self.maps) and (self.views is not None or len(models) > 1):
            raise ConfigError(
                "--stages and maps are measured of one model as it is: leave them out, or --views and the other models"
            )


def evaluate(
    model: Annotated[list[str] | None, Parameter(name="MODEL", negative="")] = None,
    /,
    *,
    annotations: File | None = None,
    images: Folder | None = None,
    weights: Name | None = None,
    views: Annotated[str | None, Parameter(metavar="SPEC")] = None,
    results: File | None = None,
    against: File | None = None,
    stages: Words | None = None,
    save_results: File | None = None,
    max_detections: Count | None = None,
    batch_size: Count = 1,
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
    """Measure box and mask average precision on annotated pictures.

    Parameters
    ----------
    model
        A preset name, a native or run folder, or a .pth or .safetensors file; several: their ensemble, and each of
        them.
    annotations
        COCO annotations of the pictures.
    images
        Folder of the pictures. Default: val for annotations/instances_val.json, else the annotations' own folder.
    weights
        A weights file, or the name of a preset with released weights, for a preset as MODEL.
    views
        Predict in several views of each image: scales, then :flip, as in 0.75,1,1.25:flip or 600x900,800x1200; or
        paper.
    results
        Instead of a model: a COCO result file of any tool.
    against
        Another COCO result file of the same pictures: the difference in AP, with its 95 % interval over pictures.
    stages
        Measure these mask stages too, each by itself or averaged: 1 2 3 1-3 (the paper's Table 4); 1,3 averages two.
    save_results
        Write the model's COCO results to this file; of pictures without annotations too, as COCO's test pictures are.
    max_detections
        Objects a picture that count. Default: the model's own number, or 100 for a result file.
    batch_size
        Pictures of equal size that are computed together.
    semantic
        Measure the semantic map too: auto against maps derived from the instances, or against the PNG maps of DIR.
    panoptic_json
        Measure instances and semantic map merged, too: COCO panoptic annotations of the same pictures.
    panoptic_dir
        Folder of their PNGs. Default: beside the JSON, called like it.
    save_panoptic
        Write the merged maps into this new folder: a PNG a picture, and panoptic.json.
    diagnostics
        Measure more: boundary AP, best score thresholds, calibration, confusion, errors by kind, AP by IoU and size.
    html
        Write the diagnostics, with curves and the worst pictures, as one page to this file.
    json
        Write all numbers, 0 to 1 (-1: undefined), to this file; - is standard output.
    """
    if bool(model) == (results is not None):
        raise ConfigError("name either a MODEL to run or --results FILE to score")
    if results is not None and views is not None:
        raise ConfigError("--views needs a MODEL: a result file holds predictions already")
    settings = settings_of(options, flags, max_detections)
    if options.print_config and model:
        return print_config_of(model[0], weights, settings)
    if annotations is None:
        raise ConfigError("--annotations is missing: name the COCO annotations to measure against")
    subsets = _subsets(stages, model[0] if model else None)
    check_json_target(json)
    for target, flag in ((save_results, "--save-results"), (html, "--html")):
        if target is not None:
            check_json_target(str(target.absolute()), flag)
    asked = Asked(
        annotations=annotations,
        images=images,
        stages=subsets,
        save=save_results,
        batch_size=batch_size,
        diagnostics=diagnostics or html is not None,
        html=html,
        semantic=map_flags.measured(semantic),
        panoptic_json=panoptic_json,
        panoptic_dir=panoptic_dir,
        save_panoptic=save_panoptic,
        views=views,
        against=against,
    )
    asked.check(model or [])
    check_files(
        {"--annotations": annotations, "--results": results, "--against": against, "--panoptic-json": panoptic_json}
    )
    check_folders({"--images": images, "--panoptic-dir": panoptic_dir})
    evaluation = (
        _evaluate_file(results, max_detections or 100, asked)
        if results is not None
        else _evaluate_models(model or [], weights, options, settings, asked)
    )
    if evaluation is None:
        return 0
    metrics = evaluation.to_dict()
    if json != STDOUT:
        print_metrics(metrics)
    print_or_write_json(json, metrics)
    return 0


def _evaluate_file(results: Path, max_detections: int, asked: Asked) -> "Evaluation":
    """The metrics of a result file."""
    from htc.data.coco import read_coco
    from htc.evaluation.evaluate import images_folder, read_other_results, score_results
    from htc.evaluation.files import read_annotations, read_results

    truth = read_annotations(asked.annotations)
    others = None if asked.against is None else read_other_results(truth, asked.against)
    folder, pictures = asked.images or images_folder(asked.annotations), None
    # A result file can be scored without its images; then the page has none.
    if asked.html is not None and (asked.images is not None or folder != asked.annotations.parent):
        pictures = {record.id: record.path for record in read_coco(asked.annotations, folder).images}
    elif asked.html is not None:
        say("the page will have no pictures: --images DIR adds them")
    found = score_results(truth, read_results(results), max_detections=max_detections, diagnostics=asked.diagnostics)
    return _finish(found, asked, results.name, pictures, others)


def _evaluate_models(
    models: Sequence[str],
    weights: str | None,
    options: ModelOptions,
    settings: Sequence[Setting],
    asked: Asked,
) -> "Evaluation | None":
    """The metrics of a model or an ensemble; None where the annotations have no objects and results are written."""
    known = check_named_models(models, weights, asked.views, settings)
    check_torch()
    from htc.evaluation import evaluate as library
    from htc.evaluation.files import has_objects
    from htc.evaluation.maps import MapRequest
    from htc.evaluation.run import match_categories

    if not has_objects(asked.annotations):
        _save_alone(models, weights, options, settings, asked)
        return None
    data = library.read_evaluation_data(asked.annotations, asked.images)
    others = None if asked.against is None else library.read_other_results(data.truth, asked.against)
    if known is not None:
        match_categories(known.classes, data.truth)
    save = None if asked.save_panoptic is None else folder_for("evaluate", "panoptic", asked.save_panoptic)
    predictor, members = load_named_models(models, weights, asked.views, settings, options)
    with progress("evaluate") as bar:
        found = library.evaluate(
            predictor,
            data,
            members=dict(zip(library.member_names(models), members, strict=True)) if len(members) > 1 else None,
            stages=asked.stages,
            maps=MapRequest(asked.semantic, asked.panoptic_json, asked.panoptic_dir, save),
            diagnostics=asked.diagnostics,
            save_results=asked.save,
            batch_size=asked.batch_size,
            progress=bar,
        )
    if save is not None:
        say(f"panoptic maps in {save}")
    if asked.save is not None:
        say(f"{len(found.results)} results in {asked.save}")
    name = " and ".join(Path(model).name for model in models)
    return _finish(found, asked, name, {record.id: record.path for record in data.dataset.images}, others)


def _finish(
    found: "Evaluation",
    asked: Asked,
    name: str,
    pictures: Mapping[int | str, Path] | None,
    others: Sequence[Mapping[str, Any]] | None,
) -> "Evaluation":
    """Write the page and compare with other results, where wanted."""
    if asked.html is not None:
        found.write_page(asked.html, f"{name} on {asked.annotations.name}", pictures)
        say(f"page in {asked.html}")
    if others is None:
        return found
    from htc.evaluation.bootstrap import DRAWS

    say(f"drawing the pictures anew, {DRAWS} times, for the interval of the difference")
    return found.compared_with(others)


def _save_alone(
    models: Sequence[str], weights: str | None, options: ModelOptions, settings: Sequence[Setting], asked: Asked
) -> None:
    """Write the results of images without annotations: they are scored elsewhere."""
    from htc.evaluation.evaluate import write_predictions

    if asked.save is None:
        raise ConfigError(
            f"{asked.annotations} has no annotations, so nothing can be measured; --save-results FILE writes "
            f"the results"
        )
    if asked.stages or asked.diagnostics or asked.maps or asked.against is not None:
        raise ConfigError(
            f"{asked.annotations} has no annotations, so nothing can be measured: leave out --stages, --against, "
            f"--diagnostics, --html and maps"
        )
    predictor, _ = load_named_models(models, weights, asked.views, settings, options)
    with progress("evaluate") as bar:
        count = write_predictions(
            predictor, asked.annotations, asked.images, asked.save, batch_size=asked.batch_size, progress=bar
        )
    say(
        f"{asked.annotations.name} has no annotations, so nothing was measured; {count} results in {asked.save}, "
        f"for the server that has them"
    )


def _subsets(stages: list[str] | None, model: str | None) -> list[tuple[int, ...]]:
    if stages and model is None:
        raise ConfigError("--stages: a result file holds masks of one kind; name a MODEL to measure its stages")
    if not stages:
        return []
    check_torch()
    from htc.evaluation.run import parse_stages

    return list(dict.fromkeys(parse_stages(text) for text in stages))
