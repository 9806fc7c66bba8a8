"""The README and the pages of docs/: commands are parsed, Python blocks run, links lead somewhere.

A block that is marked `python` is run, all blocks of a page one after the other, on a few small images. There a
training takes no time: `htc.train` checks its options and returns a run that was trained before, or (on the page about
extensions) makes two steps with what it is given. Code of other libraries is marked `py` and is not run.
"""

import ast
import inspect
import json
import pydoc
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import htc
import htc.demo
from exporting.conftest import Exported, exported_once
from htc.checkpoint.native import save_pretrained
from htc.cli.app import build
from htc.cli.commands import COMMANDS
from htc.cli.options import split
from htc.data.coco import read_coco
from htc.data.formats.layouts import locate_splits
from htc.data.loader import training_loader
from htc.presets import PRESETS, preset
from htc.settings.layers import check_alone, from_flags
from htc.settings.names import all_names

ROOT = Path(__file__).parent.parent
NUCLEI = Path(htc.demo.__file__).parent / "nuclei"
GENERATED = {"changelog.md", "command-line.md", "configuration.md", "doctor-codes.md", "models.md"}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.name not in GENERATED
}
EXTENDING = "docs/guides/extending.md"
TINY = {
    "preset": "htc_r18_small",
    "device": "cpu",
    "progress": False,
    "batch_size": 2,
    "epochs": 1,
    "input": {"short_edge": 64, "long_edge": 80},
    "cascade": {"box_channels": 16, "mask_channels": 16, "mask_convs": 1, "samples": 16},
    "rpn": {"proposals": 50, "training_proposals": 50, "samples": 32},
    "inference": {"max_detections": 50},
    "training": {"warmup_steps": 1, "augmentation": {"crop": [64, 64]}},
}
STEPS = 2
TRAIN, LOAD, EXPORT = htc.train, htc.load, htc.export


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages, without the indent that they have in a list or tab."""
    fence = re.compile(rf"^( *)```(?:{'|'.join(languages)})\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in fence.findall(PAGES[page])]


def commands(page: str) -> Iterator[str]:
    """Every `htc ...` line of a page's shell blocks, continued lines joined."""
    for block in blocks(page, "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line.removeprefix("$ ")):
                words = part.strip()
                start = re.match(r"((?:[A-Z_]+=\S+ +)*(?:uv run |srun |.* -m )?)htc ", words)
                if start and not words.startswith("#"):
                    yield words[len(start[1]) :]


CALLS = sorted({(page, call) for page in PAGES for call in commands(page)})


@pytest.mark.parametrize(("page", "call"), CALLS, ids=[f"{page}: {call}"[:120] for page, call in CALLS])
def test_every_command_can_be_parsed(page: str, call: str) -> None:
    _, verb, *arguments = shlex.split(call, comments=True)
    if verb.startswith("-"):
        assert verb in ("--help", "--version")
        return
    if arguments == ["--help"] or verb == "COMMAND":
        return
    assert verb in COMMANDS, f"{page}: {call}"
    app = build(verb)
    own = {name for argument in app[verb].assemble_argument_collection() for name in argument.names}
    rest, flags = split([verb, *(word for word in arguments if word != "$resume")], own)
    app.parse_args(rest, exit_on_error=False, print_error=False)
    check_alone(from_flags(flags))


def test_the_two_commands_are_in_the_readme() -> None:
    lines = "\n".join(blocks("README.md", "bash")).splitlines()
    assert "pip install uv && uv run htc demo" in lines
    assert "pip install uv && uv run pytest" in lines


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", PAGES["README.md"]))
def test_every_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_every_link_of_the_site_leads_to_a_page(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", PAGES[page]):
        target = (ROOT / page).parent / link
        assert target.exists() or target.name in GENERATED, f"{page}: {link}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_python_uses_public_names(page: str) -> None:
    for code in blocks(page, "python"):
        used = {
            node.attr
            for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "htc"
        }
        assert used <= set(htc.__all__)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_field_of_the_configuration_exists(page: str) -> None:
    sections = "|".join(sorted(set(htc.Config.model_fields) - {"preset", "classes", "category_ids", "precision"}))
    named = re.findall(rf"`(?:--)?((?:{sections})\.[a-z_.-]+)", ours_only(page))
    known = set(all_names())
    for name in named:
        field = name.replace("-", "_").rstrip(".")
        assert field in known or any(one.startswith(f"{field}.") for one in known), f"{page}: {name}"


def ours_only(page: str) -> str:
    """The text of a page; of the tables that compare libraries, the column about this one."""
    if "/migration/" not in page:
        return PAGES[page]
    return "\n".join(line.split(" | ", 1)[-1] for line in PAGES[page].splitlines())


def test_the_functions_of_the_paper_exist() -> None:
    names = re.findall(r"`(htc\.[\w.]+)`", PAGES["docs/concepts/paper.md"])
    assert len(names) > 15
    for name in names:
        assert pydoc.locate(name) is not None, name


class World:
    """A folder with small images, datasets and trained models under the names that the pages use."""

    def __init__(self, folder: Path, run: Path, page: str) -> None:
        self.page = page
        self.trainings: list[dict[str, Any]] = []
        self.printed: list[tuple[Any, ...]] = []
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.folder = folder
        (folder / "photos").mkdir()
        for name in ("street", "empty"):
            noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"photos/{name}.jpg")
        shutil.copy(folder / "photos/street.jpg", folder / "street.jpg")
        pages = [Image.new("RGB", (60, 40), (shade, 0, 0)) for shade in (0, 200)]
        pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
        small_coco(folder / "my_data", {"train": 4, "val": 2})
        (folder / "runs/train").mkdir(parents=True)
        for name in ("my_data", "other"):
            (folder / "runs/train" / name).symlink_to(run, target_is_directory=True)
        self.run = run

    def load(self, model: Any, **options: Any) -> Any:
        """`htc.load`, with the trained model in place of released weights."""
        inspect.signature(LOAD).bind(model, **options)
        return LOAD(self.run if model in PRESETS else model, **options)

    def train(self, data: Any, **options: Any) -> Any:
        """Checks the options, and what a training does with them where the page is about that."""
        inspect.signature(TRAIN).bind(data, **options)
        assert set(options) <= {*inspect.signature(TRAIN).parameters, *htc.Config.model_fields}
        self.trainings.append(options)
        if self.page == EXTENDING:
            return two_steps(data, **options)
        if "callbacks" in options:  # called for real, without the schedule of the page
            TRAIN(data, **TINY, callbacks=options["callbacks"], out=self.folder / "called")
        if "preset" in options:
            preset(options["preset"])
        if "out" in options:
            Path(options["out"]).symlink_to(self.run, target_is_directory=True)
        config = htc.load(self.run).config
        return htc.TrainingResult(folder=self.run, config=config, metrics=RESULT["metrics"], steps=2, device="cpu")

    def export(self, model: Any, file: str, **options: Any) -> Any:
        """`htc.export`, which gives the files of the exporting tests. -> the totals"""
        inspect.signature(EXPORT).bind(model, file, **options)
        for source in (EXPORTED[0].onnx, EXPORTED[0].folder / "model.onnx.json"):
            shutil.copy(source, source.name.replace("model.onnx", file))
        return SimpleNamespace(**json.loads(Path(f"{file}.json").read_text())["totals"])

    def execute(self) -> None:
        """Runs the page's blocks."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(htc, "train", self.train, raising=False)
            patch.setattr(htc, "load", self.load, raising=False)
            patch.setattr(htc, "export", self.export, raising=False)
            patch.setattr("builtins.print", lambda *values, **_: self.printed.append(values))
            patch.setattr(Image.Image, "show", lambda *_, **__: None)
            for block in blocks(self.page, "python"):
                before = self.names.get("dataset")
                exec(compile(block, self.page, "exec"), self.names)
                if "from_records" in block:
                    self.names["records"] = self.names["dataset"]
                elif "from_supervision" in block:
                    self.names["supervised"] = self.names["dataset"]
                self.names["before"] = before


RESULT: dict[str, Any] = {}
"""Of the training that stands for those of the pages."""
EXPORTED: list[Exported] = []
"""The export that stands for those of the pages."""


def two_steps(data: Any, **options: Any) -> SimpleNamespace:
    """What a training does with datasets, transforms and backbones."""
    out = Path(options["out"])
    splits = locate_splits(data=data, val_share=options.get("val_share"), converted=out / "data")
    dataset = read_coco(splits.train_annotations, splits.train_images)
    config = preset("htc_r18_small").replace(
        classes=dataset.classes, category_ids=dataset.category_ids, semantic={"classes": len(dataset.classes) + 1}
    )
    detector = htc.Detector(config, options.get("backbone"))
    objective = htc.TrainingObjective(detector, config)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    loader = training_loader(dataset, config, 0, 0, 1, transforms=options.get("transforms"))
    for _, batch in zip(range(STEPS), loader, strict=False):
        loss = torch.stack(list(objective(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert bool(loss.isfinite())
    save_pretrained(detector, detector.config, out / "model")
    return SimpleNamespace(folder=out)


def small_coco(folder: Path, counts: Mapping[str, int]) -> None:
    """The first images of each split of the bundled nuclei."""
    (folder / "annotations").mkdir(parents=True)
    for part, count in counts.items():
        content = json.loads((NUCLEI / f"annotations/instances_{part}.json").read_text())
        content["images"] = sorted(content["images"], key=lambda image: image["height"])[:count]
        chosen = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen]
        (folder / f"annotations/instances_{part}.json").write_text(json.dumps(content))
        (folder / part).mkdir()
        for image in content["images"]:
            shutil.copy(NUCLEI / part / image["file_name"], folder / part)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small training."""
    folder = tmp_path_factory.mktemp("trained")
    small_coco(folder / "data", {"train": 2, "val": 1})
    result = TRAIN(folder / "data", **TINY, out=folder / "run")
    RESULT["metrics"] = result.metrics
    return result.folder


@pytest.fixture(scope="module")
def worlds(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The world of a page after its blocks ran, by page."""
    made: dict[str, World] = {}

    def world(page: str) -> World:
        if page not in made:
            if any("htc.export(" in block for block in blocks(page, "python")) and not EXPORTED:
                EXPORTED.append(exported_once(tmp_path_factory))
            made[page] = World(tmp_path_factory.mktemp("world"), trained, page)
            made[page].execute()
        return made[page]

    return world


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_every_python_block_runs(page: str, worlds: Any) -> None:
    assert worlds(page).names


def test_the_callback_of_the_training_page_is_called(worlds: Any) -> None:
    assert ("epoch", 0, "is done") in worlds("docs/guides/training.md").printed


def test_extending_records(worlds: Any) -> None:
    world = worlds(EXTENDING)
    printed = re.search(r"print\(dataset\)  # (.*)", PAGES[EXTENDING])
    assert printed is not None
    assert repr(world.names["records"]) == printed[1]
    assert world.printed[0] == (world.names["records"],)


def test_extending_supervision(worlds: Any) -> None:
    names = worlds(EXTENDING).names
    assert [len(record.instances) for record in names["supervised"]] == [
        len(record.instances) for record in names["dataset"]
    ]


def test_extending_trainings_got_data_transforms_and_backbone(worlds: Any) -> None:
    world = worlds(EXTENDING)
    assert [set(call) - {"out"} for call in world.trainings] == [
        set(),
        {"val_share"},
        {"transforms"},
        {"transforms"},
        {"preset", "backbone"},
    ]
    assert (world.folder / "runs/nuclei/data/annotations/instances_val.json").is_file()
    assert world.names["model"].config.backbone.kind == "custom"
    assert world.names["predictions"].boxes.shape[1] == 4


def test_extending_module_of_torchvision_fits(worlds: Any) -> None:
    names = worlds(EXTENDING).names
    assert htc.Detector(names["config"], names["resnet"]).backbone.channels == (64, 128, 256, 512)
