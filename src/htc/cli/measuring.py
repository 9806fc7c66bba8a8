"""The work of `htc evaluate`: from a model or a result file to all numbers, the page and the saved results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.cli.maps import Maps, measured_maps
from htc.cli.model import check_models, load_members
from htc.cli.options import ModelOptions
from htc.cli.output import progress, say
from htc.compatibility import check_torch
from htc.errors import ConfigError, DataError

if TYPE_CHECKING:
    from htc.data.dataset import Dataset
    from htc.inference.predictor import Predictor

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a call of `htc evaluate` wants, beside the model."""

    annotations: Path
    images: Path | None
    subsets: Sequence[tuple[int, ...]]
    save: Path | None
    batch_size: int
    diagnostics: bool
    html: Path | None
    maps: Maps
    augment: str | None = None
    against: Path | None = None

    @property
    def folder(self) -> Path:
        """The pictures' folder by COCO's layout: annotations/instances_val2017.json -> val2017; else the
        annotations' own folder.
        """
        if self.images is not None:
            return self.images
        split = self.annotations.stem.rsplit("_", 1)[-1]
        sibling = self.annotations.parent.parent / split
        return sibling if sibling.is_dir() else self.annotations.parent


def _others(truth: Mapping[str, Any], against: Path | None) -> list[Numbers] | None:
    """The results to compare with, checked before anything is computed."""
    from htc.evaluation.comparison import check_results
    from htc.evaluation.files import read_results

    if against is None:
        return None
    others = read_results(against)
    try:
        check_results(truth, others)
    except DataError as error:
        raise DataError(f"--against {against}: {error}") from error
    return others


def of_results(results: Path, max_detections: int, asked: Asked) -> Numbers:
    """The numbers of a result file."""
    from htc.data.coco import read_coco
    from htc.evaluation.files import read_annotations, read_results

    truth = read_annotations(asked.annotations)
    others = _others(truth, asked.against)
    pictures = None
    # A result file can be scored without its pictures; then the page has none.
    if asked.html is not None and (asked.images is not None or asked.folder != asked.annotations.parent):
        pictures = {record.id: record.path for record in read_coco(asked.annotations, asked.folder).images}
    elif asked.html is not None:
        say("the page will have no pictures: --images DIR adds them")
    found = read_results(results)
    return _numbers(truth, found, max_detections, results.name, asked, pictures) | _compared(
        truth, found, others, max_detections
    )


def of_model(
    models: Sequence[str], weights: str | None, options: ModelOptions, settings: Any, asked: Asked
) -> Numbers | None:
    """The numbers of a model or an ensemble; None where the annotations have no objects, and results are all there
    is to write.
    """
    if (asked.subsets or asked.maps.wanted) and (asked.augment is not None or len(models) > 1):
        raise ConfigError(
            "--stages and maps are measured of one model as it is: leave them out, or --augment and the other models"
        )
    known = check_models(models, weights, asked.augment, settings)
    check_torch()
    from htc.data.coco import read_coco
    from htc.evaluation.files import has_objects, read_annotations
    from htc.evaluation.run import detections_that_count, match_categories, stream_results

    if not has_objects(asked.annotations):
        _save_alone(models, weights, options, settings, asked)
        return None
    truth = read_annotations(asked.annotations)
    others = _others(truth, asked.against)
    if known is not None:
        match_categories(known.classes, truth)
    dataset = read_coco(asked.annotations, asked.folder)
    predictor, members = load_members(models, weights, asked.augment, settings, options)
    most = detections_that_count(predictor, None)
    beside: Numbers = {}
    if len(members) > 1:
        beside["members"] = _of_members(_member_names(models), members, dataset, truth, asked.batch_size)
    with progress("evaluate") as bar, measured_maps(asked.maps, predictor, dataset) as maps:
        if asked.subsets:
            results, beside = _by_stages(predictor, asked, lambda done, total: bar(done, total, ""))
        else:
            results = list(
                stream_results(
                    predictor,
                    dataset,
                    truth,
                    most,
                    lambda done, total: bar(done, total, ""),
                    asked.batch_size,
                    look=maps.look,
                )
            )
    if asked.save is not None:
        _save(results, asked.save)
    name, pictures = (
        " and ".join(Path(model).name for model in models),
        {record.id: record.path for record in dataset.images},
    )
    return (
        _numbers(truth, results, most, name, asked, pictures)
        | _compared(truth, results, others, most)
        | beside
        | maps.numbers()
    )


def _member_names(models: Sequence[str]) -> list[str]:
    """Folder names, or whole paths where those would not tell the models apart; a model that is named twice is
    numbered.
    """
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        names = list(models)
    return [name if names.count(name) == 1 else f"{name} ({row + 1})" for row, name in enumerate(names)]


def _of_members(
    names: Sequence[str], members: "Sequence[Predictor]", dataset: "Dataset", truth: Mapping[str, Any], batch_size: int
) -> Numbers:
    """The numbers of each model of an ensemble by itself, in the same views."""
    from htc.evaluation.coco import coco_metrics
    from htc.evaluation.run import detections_that_count, stream_results

    found = {}
    for name, member in zip(names, members, strict=True):
        most = detections_that_count(member, None)
        with progress(name) as bar:
            results = list(
                stream_results(
                    member, dataset, truth, most, lambda done, total, bar=bar: bar(done, total, ""), batch_size
                )
            )
        found[name] = coco_metrics(truth, results, most)
    return found


def _by_stages(predictor: "Predictor", asked: Asked, tell: Any) -> tuple[list[Numbers], Numbers]:
    """The model's own results, and the numbers of the stages that were asked for."""
    from htc.evaluation.run import measure_stages, stages_name
    from htc.inference.stages import mask_stages_of

    own = mask_stages_of(predictor)
    wanted = list(dict.fromkeys([*asked.subsets, own]))
    each, results = measure_stages(predictor, asked.annotations, asked.folder, wanted, None, tell, asked.batch_size)
    return results[own], {"stages": {stages_name(subset): each[subset] for subset in asked.subsets}}


def _compared(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    others: Sequence[Numbers] | None,
    max_detections: int,
) -> Numbers:
    """AP of the others, the difference and its interval, by kind; nothing where there are no others."""
    from htc.evaluation.bootstrap import DRAWS, gains

    if others is None:
        return {}
    say(f"drawing the pictures anew, {DRAWS} times, for the interval of the difference")
    found = gains(truth, results, others, max_detections)
    return {
        "against": {
            kind: {"AP": gain.other, "difference": gain.difference, "low": gain.low, "high": gain.high}
            for kind, gain in found.items()
        }
    }


def _numbers(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int,
    name: str,
    asked: Asked,
    pictures: Mapping[Any, Path] | None,
) -> Numbers:
    """The contract's numbers, with diagnostics and page where they are asked for."""
    from htc.evaluation.coco import metrics_of
    from htc.evaluation.comparison import compare

    comparison = compare(truth, results)
    if not asked.diagnostics and asked.html is None:
        return metrics_of(comparison, max_detections)
    from htc.evaluation.diagnostics import diagnose

    metrics, found = diagnose(comparison, max_detections)
    if asked.html is not None:
        from htc.evaluation.report import report_page
        from htc.visual.page import write_page

        write_page(asked.html, report_page(f"{name} on {asked.annotations.name}", metrics, found, comparison, pictures))
        say(f"page in {asked.html}")
    return {**metrics, "diagnostics": found.content()}


def _save(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    from htc.inference.outputs import results_file

    with results_file(path) as file:
        file.add(results)
    say(f"{len(results)} results in {path}")


def _save_alone(models: Sequence[str], weights: str | None, options: ModelOptions, settings: Any, asked: Asked) -> None:
    """Results of pictures whose objects nobody has: written as they come, for another place to measure."""
    from htc.data.coco import read_picture_list
    from htc.data.json_file import read_json
    from htc.evaluation.files import ANNOTATIONS_HINT
    from htc.evaluation.run import detections_that_count, stream_results
    from htc.inference.outputs import results_file

    if asked.save is None:
        raise ConfigError(
            f"{asked.annotations} has no annotations, so nothing can be measured; --save-results FILE writes "
            f"the results"
        )
    if asked.subsets or asked.diagnostics or asked.html is not None or asked.maps.wanted or asked.against is not None:
        raise ConfigError(
            f"{asked.annotations} has no annotations, so nothing can be measured: leave out --stages, --against, "
            f"--diagnostics, --html and maps"
        )
    dataset = read_picture_list(asked.annotations, asked.folder)
    truth = {**read_json(asked.annotations, ANNOTATIONS_HINT), "annotations": []}
    predictor, _ = load_members(models, weights, asked.augment, settings, options)
    most = detections_that_count(predictor, None)
    with progress("evaluate") as bar, results_file(asked.save) as file:
        for result in stream_results(
            predictor, dataset, truth, most, lambda done, total: bar(done, total, ""), asked.batch_size
        ):
            file.add([{key: value for key, value in result.items() if key != "category_name"}])
    say(
        f"{asked.annotations.name} has no annotations, so nothing was measured; {file.count} results in {asked.save}, "
        f"for the server that has them"
    )
