"""What one tree computes for one list of cases; `scripts/same_numbers` runs this once a tree and compares the answers.

Usage: PYTHONPATH=TREE/src python same_numbers_probe.py compute REQUEST ANSWER, or htc STEPS ARGUMENT...

Nothing here imports a module of the package by its path: `htc`'s public names and the command line come first, and
whatever is not public is located by its name in the sources (`located`). Where trees may differ in how something is
called, the difference is in `Adaptors`.
"""

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS)]
sys.path.append(str(SCRIPTS.parent / "tests"))
from same_numbers_cases import COMPOSED, matches

from compatibility.fixtures import FIXTURES, predictions, resume_words, unpacked

Entries = dict[str, Any]
Request = dict[str, Any]
SIZE = (64, 96)
"""(height, width) of the training images."""
LONG_STEPS, MEDIUM_STEPS, SHORT_STEPS = 20, 6, 2
LARGE = 5_000_000
"""Parameters; a larger model that is not among the composed cases takes MEDIUM_STEPS."""
INTERRUPTED = 130
"""Exit code of the command line after SIGINT."""
VIEWS = "0.75,1.25:flip"


@cache
def _definitions() -> dict[str, list[str]]:
    """Name of a class or function -> the modules that define it at their top level."""
    import htc

    root = Path(htc.__file__).resolve().parent
    found: dict[str, list[str]] = {}
    # `htc.types` first: a subpackage may define a class of the same name.
    for path in sorted(root.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        module = ".".join(("htc", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.setdefault(node.name, []).append(module)
    return found


def located(*names: str) -> Any:
    """The class or function of the first of these names that the tree defines."""
    for name in names:
        if name in _definitions():
            return getattr(import_module(_definitions()[name][0]), name)
    raise LookupError(f"the tree defines none of {', '.join(names)}: add its new name in same_numbers_probe.py")


class Adaptors:
    """Calls that may differ between two trees: the present form first, then the other one."""

    ALIASES: ClassVar = {
        "truths": ("truths", "ground_truths", "ground_truth", "targets"),
        "seeds": ("seeds", "seed"),
        "sizes": ("sizes", "input_sizes"),
        "semantic": ("semantic", "semantic_targets"),
    }

    @classmethod
    def made(cls, kind: Any, **values: Any) -> Any:
        """An instance of a dataclass whose fields may have other names (`ALIASES`)."""
        given = {}
        names = {field.name for field in fields(kind)}
        for name, value in values.items():
            alias = next((one for one in cls.ALIASES.get(name, (name,)) if one in names), None)
            if alias is None:
                raise LookupError(
                    f"{kind.__name__} has no field {name!r}, but {sorted(names)}: add an alias in same_numbers_probe.py"
                )
            given[alias] = value
        return kind(**given)

    @staticmethod
    def folder(state: Mapping[str, Tensor], config: Any, folder: Path) -> Path:
        """A native model folder, written by this script: config.json and model.safetensors."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(config.model_dump_json(indent=2))
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in state.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        return folder

    @staticmethod
    def loaded(folder: Path, precision: str) -> Any:
        """A predictor on the CPU."""
        import htc

        return htc.load(str(folder), device="cpu", precision=precision)

    @staticmethod
    def probabilities(prediction: Any) -> np.ndarray | None:
        """The masks as probabilities on their grids, where the prediction still has them."""
        return getattr(prediction.masks, "probabilities", None)

    @staticmethod
    def has_masks(prediction: Any) -> bool:
        """False for models of boxes alone."""
        masks = prediction.masks
        return masks is not None and bool(getattr(masks, "exist", True))


def numbered_batch(config: Any, number: int) -> Any:
    """One of four training batches: objects of all classes; an image without objects; one without masks; crowds."""
    truth, masks, batch = located("GroundTruth"), located("MaskCrops"), located("Batch")
    numbers = np.random.default_rng(number)
    height, width = SIZE
    sizes = [(height, width), (56, 80)]
    truths = []
    for row, (rows, columns) in enumerate(sizes):
        count = 0 if number % 4 == 1 and row == 1 else 3
        boxes, pixels = [], []
        for _ in range(count):
            w, h = (int(side) for side in numbers.integers(12, 40, 2))
            x, y = int(numbers.integers(0, columns - w)), int(numbers.integers(0, rows - h))
            bitmap = np.ones((h, w), np.uint8)
            bitmap[: h // 2, : w // 2] = 0
            boxes.append((x, y, x + w, y + h))
            pixels.append(bitmap)
        crops = Adaptors.made(
            masks,
            pixels=torch.from_numpy(np.concatenate([np.zeros(0, np.uint8), *(one.ravel() for one in pixels)])),
            sizes=torch.tensor([one.shape for one in pixels], dtype=torch.long).view(-1, 2),
            offsets=torch.tensor([box[:2] for box in boxes], dtype=torch.long).view(-1, 2),
            canvas=(rows, columns),
        )
        crowds = torch.tensor([[5.0, 5.0, 45.0, 40.0]] if number % 4 == 3 else [], dtype=torch.float32).view(-1, 4)
        truths.append(
            Adaptors.made(
                truth,
                boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
                labels=torch.from_numpy(numbers.integers(0, config.num_classes, count)),
                masks=None if number % 4 == 2 and row == 0 else crops,
                crowd_boxes=crowds,
            )
        )
    semantic = None
    if config.semantic is not None:
        semantic = torch.from_numpy(numbers.integers(0, config.semantic.classes, (2, height, width)).astype(np.uint8))
        semantic[1, sizes[1][0] :], semantic[1, :, sizes[1][1] :] = config.semantic.ignore, config.semantic.ignore
    images = torch.from_numpy(numbers.standard_normal((2, 3, height, width)).astype(np.float32))
    images[1, :, sizes[1][0] :], images[1, :, :, sizes[1][1] :] = 0, 0
    seeds = (1000 + number, 2000 + number)
    return Adaptors.made(
        batch,
        images=images,
        sizes=torch.tensor(sizes),
        truths=tuple(truths),
        semantic=semantic,
        image_ids=(2 * number, 2 * number + 1),
        seeds=seeds,
    )


def digest(value: Any) -> Any:
    """A tensor or array as hash, shape, sums and samples; other values as they are."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        return value
    flat = value.detach().cpu().contiguous().flatten()
    raw = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    total = float(flat.sum(dtype=torch.float64))
    samples = flat[:: max(1, len(flat) // 8)][:8].double().tolist()
    dtype = str(value.dtype).removeprefix("torch.")
    return {
        "hash": hashlib.sha1(raw).hexdigest(),
        "shape": [*value.shape],
        "dtype": dtype,
        "sum": total,
        "samples": samples,
    }


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dictionaries, lists and dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from flattened(one, f"{path}/{name}")
        if not value:
            yield path, "{}"
    elif isinstance(value, list | tuple) and not all(isinstance(one, int | float | str | None) for one in value):
        for number, one in enumerate(value):
            yield from flattened(one, f"{path}/{number}")
    else:
        yield path, digest(value) if isinstance(value, Tensor | np.ndarray) else repr(value)


def with_spread_weights(model: nn.Module) -> None:
    """Weights by each tensor's name: scores spread, boxes move, no norm is the identity."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            numbers = torch.Generator().manual_seed(
                int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest())
            )
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=numbers)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0.0, 0.1, generator=numbers)
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.uniform_(0.3, 0.7, generator=numbers)
            elif any(part in name for part in ("classify", "regress", "objectness", "deltas", "location", "shape")):
                tensor.normal_(0.0, 0.05, generator=numbers)
            elif tensor.is_floating_point() and tensor.ndim > 1 and not tensor.any():
                tensor.normal_(0.0, 0.02, generator=numbers)


class Case:
    """One configuration and what its parts share: the detector with spread weights, its folder."""

    def __init__(self, values: Mapping[str, Any], work: Path, *, composed: bool) -> None:
        self.values, self.work, self.composed = values, work, composed
        self._folder: Path | None = None
        self.spread = False

    @cached_property
    def config(self) -> Any:
        """The configuration; a folder of its own is made for what is computed with it."""
        import htc

        self.work.mkdir(exist_ok=True)
        return htc.Config.model_validate(self.values)

    @cached_property
    def detector(self) -> nn.Module:
        """The detector as a seed makes it."""
        import htc

        torch.manual_seed(0)
        return htc.Detector(self.config)

    def spread_detector(self) -> nn.Module:
        """The detector, from then on with spread weights."""
        if not self.spread:
            with_spread_weights(self.detector)
            self.spread = True
        return self.detector

    def predictor(self) -> Any:
        """A predictor of the detector as it is."""
        import htc

        return htc.Predictor(self.spread_detector(), self.config)

    def folder(self) -> Path:
        """The native folder of the spread weights."""
        if self._folder is None:
            self._folder = Adaptors.folder(self.spread_detector().state_dict(), self.config, self.work / "model")
        return self._folder


def names_part(case: Case, request: Request) -> Entries:
    """State-dict keys and shapes, parameters and which of them are trained, in order."""
    state = {name: [*tensor.shape] for name, tensor in case.detector.state_dict().items()}
    parameters = [(name, parameter.requires_grad) for name, parameter in case.detector.named_parameters()]
    return {
        "state": list(state.items()),
        "parameters": parameters,
        "buffers": [name for name, _ in case.detector.named_buffers()],
    }


def initial_part(case: Case, request: Request) -> Entries:
    """Values after construction with a seed."""
    assert not case.spread
    return {name: digest(tensor) for name, tensor in case.detector.state_dict().items()}


def predict_part(case: Case, request: Request) -> Entries:
    """Detections through `htc.load` and `predict`, in float32 and bfloat16; the semantic map where there is one.

    Quick: from the detector itself, in float32, but for the composed cases.
    """
    entries: Entries = {}
    through_files = not request["quick"] or case.composed
    for precision in ("fp32", "bf16") if through_files else ("fp32",):
        predictor = Adaptors.loaded(case.folder(), precision) if through_files else case.predictor()
        for number, (height, width) in enumerate(((60, 90), (96, 64)) if through_files else ((60, 90),)):
            image = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            options = (
                {"semantic": True} if case.config.semantic is not None and precision == "fp32" and number == 0 else {}
            )
            found = predictor.predict(image, score_threshold=0.0, **options)
            entries |= {f"{precision}/{number}/{name}": value for name, value in detection_entries(found).items()}
            if options:
                entries["semantic"] = digest(found.semantic.labels())
    return entries


def detection_entries(found: Any) -> Entries:
    """The valid detections of one image."""
    entries: Entries = {
        "count": len(found),
        "boxes": digest(found.boxes),
        "scores": digest(found.scores),
        "labels": digest(found.labels),
    }
    if Adaptors.has_masks(found):
        entries["bitmaps"] = digest(found.masks.bitmaps())
        probabilities = Adaptors.probabilities(found)
        if probabilities is not None:
            entries["probabilities"] = digest(probabilities)
    return entries


def steps_part(case: Case, request: Request) -> Entries:
    """Losses of each step, gradients at the first and the last, weights and optimizer state at the end.

    Quick: losses, gradients at the first step, running statistics at the end.
    """
    import htc

    large = sum(parameter.numel() for parameter in case.detector.parameters()) > LARGE
    steps = SHORT_STEPS if request["quick"] else MEDIUM_STEPS if large and not case.composed else LONG_STEPS
    detector = case.spread_detector().train()
    objective = htc.TrainingObjective(detector, case.config)
    trained = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    parameters = [parameter for _, parameter in trained]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    if request["quick"]:
        optimizer = torch.optim.SGD(parameters, lr=1e-4)
    batches = [numbered_batch(case.config, number) for number in range(min(steps, 4))]
    entries: Entries = {}
    for step in range(steps):
        torch.manual_seed(step)
        losses = objective(batches[step % len(batches)])
        entries |= {f"step {step}/{name}": digest(value) for name, value in losses.items()}
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        if step == 0 or (step == steps - 1 and not request["quick"]):
            entries |= {f"step {step}/gradient {name}": digest(parameter.grad) for name, parameter in trained}
        nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
    entries |= {f"end/{name}": digest(tensor) for name, tensor in detector.named_buffers()}
    if not request["quick"]:
        entries |= {f"end/{name}": digest(parameter) for name, parameter in detector.named_parameters()}
        state = optimizer.state_dict()["state"]
        entries |= {
            f"end/optimizer {trained[row][0]}/{key}": digest(value)
            for row, one in state.items()
            for key, value in one.items()
        }
    case.detector.eval()
    return entries


def export_part(case: Case, request: Request) -> Entries:
    """Outputs of the exported program on an image of another size than the example's; of a failure, its kind."""
    detector = case.spread_detector().eval()
    sides = {2: 32 * torch.export.Dim("rows", min=2, max=48), 3: 32 * torch.export.Dim("columns", min=2, max=48)}
    numbers = torch.Generator().manual_seed(3)
    example = (torch.randn(1, 3, 128, 160, generator=numbers), torch.tensor([[120, 150]]))
    with torch.no_grad():
        try:
            program = torch.export.export(
                detector, example, dynamic_shapes={"images": sides, "sizes": None}, strict=False
            )
        except Exception as error:  # a model that cannot be exported: it must stay so in both trees
            return {"not exported": type(error).__name__}
        found = program.module()(torch.randn(1, 3, 96, 224, generator=numbers), torch.tensor([[93, 219]]))
    valid = found.valid
    return {name: digest(getattr(found, name)[valid]) for name in ("boxes", "scores", "labels", "masks")} | {
        "valid": digest(valid.sum())
    }


def views_part(case: Case, request: Request) -> Entries:
    """`htc predict --json` of one model in several views, and of two models."""
    folder, other = case.folder(), case.work / "other"
    state = case.detector.state_dict()
    slightly_larger = {name: value * 1.01 if value.is_floating_point() else value for name, value in state.items()}
    Adaptors.folder(slightly_larger, case.config, other)
    write_split(case.work, "images", 2, 5)
    calls = {
        "views": [folder, "--augment", VIEWS],
        "ensemble": [folder, "--model", other],
        "both": [folder, "--model", other, "--augment", "1:flip"],
    }
    entries: Entries = {}
    for name, models in calls.items():
        target = case.work / f"{name}.json"
        words = ["--json", target, "--no-draw", "--score-threshold", 0.0, "--device", "cpu"]
        command_line("predict", case.work / "images", "--model", *models, *words)
        entries |= {f"{name}/{key}": value for key, value in json_entries(target).items()}
    return entries


def evaluate_part(case: Case, request: Request) -> Entries:
    """Metrics of `htc evaluate --json --diagnostics`."""
    data, target = request_data(request), case.work / "metrics.json"
    words = ["--annotations", data / "val.json", "--images", data / "val", "--json", target, "--device", "cpu"]
    command_line("evaluate", case.folder(), *words, "--diagnostics")
    return json_entries(target)


def train_part(case: Case, request: Request) -> Entries:
    """`htc train` to its end: losses and images of every step, metrics, weights, checkpoint."""
    out = case.work / "run"
    command_line("train", *training_words(case, request, out))
    return run_entries(out)


def resume_part(case: Case, request: Request) -> Entries:
    """`htc train` stopped in the middle of an epoch, then resumed: the folder after each."""
    out = case.work / "stopped"
    words = training_words(case, request, out)
    interrupted(3, "train", *words)
    entries = {f"stopped/{name}": value for name, value in run_entries(out).items()}
    command_line("train", *words, "--resume")
    return entries | {f"resumed/{name}": value for name, value in run_entries(out).items()}


def fixtures_part(name: str, work: Path) -> Entries:
    """A committed run of an older version, resumed to its end; what its models predict."""
    unpacked(name, work)
    entries: Entries = {}
    for model in ("model", "finished"):
        if (work / model).exists():
            entries |= {f"{model}{key}": value for key, value in flattened(predictions(work / model))}
    validated = json.loads((FIXTURES / f"{name}.json").read_text())["validated"]
    command_line("train", *resume_words(work / "run", validated=validated))
    return entries | run_entries(work / "run")


@contextlib.contextmanager
def without_drawings() -> Iterator[None]:
    """Saves empty files in place of charts and drawings, which are not compared and take most of a training's time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def nothing(_: Any, target: Any, *__: Any, **___: Any) -> None:
        if isinstance(target, str | Path):
            Path(target).touch()

    savers = [(Figure, "savefig"), (FigureCanvasAgg, "print_png"), (Image.Image, "save")]
    before = [getattr(owner, name) for owner, name in savers]
    for owner, name in savers:
        setattr(owner, name, nothing)
    try:
        yield
    finally:
        for (owner, name), saver in zip(savers, before, strict=True):
            setattr(owner, name, saver)


def command_line(*words: Any) -> None:
    """Runs `htc WORDS` in this process; raises with its last messages unless it succeeds."""
    arguments, before = sys.argv, Path.cwd()
    output = io.StringIO()
    sys.argv = ["htc", *(str(word) for word in words)]
    sys.modules.pop("htc.__main__", None)
    code: Any = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), without_drawings():
            runpy.run_module("htc", run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = arguments
        os.chdir(before)
    if code != 0:
        raise RuntimeError(f"htc {words[0]} exits with {code}: {output.getvalue()[-1000:]}")


def interrupted(steps: int, *words: Any) -> None:
    """Runs `htc WORDS` in a process of its own that receives SIGINT right after that many optimizer steps."""
    call = [sys.executable, __file__, "htc", str(steps), *(str(word) for word in words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode != INTERRUPTED:
        raise RuntimeError(f"htc {words[0]}, interrupted, exits with {done.returncode}: {done.stderr[-1000:]}")


def interrupt_after(steps: int, words: list[str]) -> None:
    """Runs `htc WORDS` and sends SIGINT after that many optimizer steps, through a hook of torch."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == steps:
            os.kill(os.getpid(), signal.SIGINT)

    register_optimizer_step_post_hook(count)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    sys.argv = ["htc", *words]
    runpy.run_module("htc", run_name="__main__")


def training_words(case: Case, request: Request, out: Path) -> list[Any]:
    """Arguments of `htc train` for a case."""
    data, file = request_data(request), case.work / "config.json"
    file.write_text(case.config.model_dump_json())
    if request["quick"]:
        values = json.loads(file.read_text())
        values["training"] |= {"epochs": 1, "milestones": []}
        file.write_text(json.dumps(values))
    words = [
        "--config",
        file,
        "--train-annotations",
        data / "train.json",
        "--train-images",
        data / "train",
        "--out",
        out,
        "--device",
        "cpu",
    ]
    validation = [] if request["quick"] else ["--val-annotations", data / "val.json", "--val-images", data / "val"]
    return [*words, "--seed", 3, *validation]


def run_entries(out: Path) -> Entries:
    """What a run folder holds: every CSV and JSON file, weights and checkpoint; no drawings, no event files."""
    entries: Entries = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".csv":
            entries[name] = path.read_text().splitlines()
        elif path.suffix == ".json":
            entries |= {f"{name}{key}": value for key, value in flattened(json.loads(path.read_text()))}
        elif path.suffix == ".yaml":
            entries[name] = path.read_text().splitlines()
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            entries |= {f"{name}/{key}": digest(value) for key, value in load_file(path).items()}
        elif path.suffix == ".ckpt":
            content = torch.load(path, weights_only=True, map_location="cpu")
            entries |= {f"{name}{key}": value for key, value in flattened(content)}
    return entries


def json_entries(path: Path) -> Entries:
    """A JSON file's values by their path."""
    return dict(flattened(json.loads(path.read_text())))


def request_data(request: Request) -> Path:
    """A small data set: 9 training images (quick: 4) for epochs of 5 steps, 4 to validate."""
    data = Path(request["work"]) / "data"
    if not data.exists():
        write_split(data, "train", 4 if request["quick"] else 9, 1)
        write_split(data, "val", 4, 2)
    return data


def write_split(folder: Path, name: str, images: int, seed: int) -> None:
    """A folder of PNG files and COCO annotations `NAME.json`; the second image has no objects."""
    numbers = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    content: Entries = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 4, "name": "disc"}, {"id": 9, "name": "square"}],
    }
    for number in range(images):
        height, width = (72, 80) if number % 3 else (80, 64)
        rows, columns = np.mgrid[:height, :width]
        pixels = numbers.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(0 if number == 1 else 3):
            y, x, radius = *(int(v) for v in numbers.integers(14, 50, 2)), int(numbers.integers(6, 13))
            category = int(numbers.choice([4, 9]))
            inside = (
                np.hypot(rows - y, columns - x) if category == 4 else np.maximum(abs(rows - y), abs(columns - x))
            ) <= radius
            pixels[inside] = (220, 90, 90) if category == 4 else (90, 220, 90)
            angles = np.linspace(0, 2 * np.pi, 17)[:-1] if category == 4 else np.pi * (np.arange(4) / 2 + 0.25)
            reach = radius if category == 4 else radius * 2**0.5
            outline = (
                np.stack((x + reach * np.cos(angles), y + reach * np.sin(angles)), -1).clip(0, (width, height)).round(2)
            )
            corner, end = outline.min(0), outline.max(0)
            box = [*corner.tolist(), *(end - corner).tolist()]
            one = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": category,
                "iscrowd": 0,
                "area": float(np.prod(end - corner)),
            }
            content["annotations"].append({**one, "bbox": box, "segmentation": [outline.ravel().tolist()]})
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / f"{name}.json").write_text(json.dumps(content))


Part = Callable[[Case, Any], Entries]
WHOLE_MODEL = (
    "base",
    "Mask R-CNN",
    "class-specific boxes, linear Soft-NMS",
    "PANet, guided anchoring, GCN, Gaussian Soft-NMS",
    "DetectoRS",
    "fine masks, all levels, precise pooling",
    "cascade.mask_head=none",
    "backbone=vit",
    "probabilities, own stages",
)
"""Cases that are evaluated and exported, and predict in several views and in an ensemble."""
EXPORTED = (
    r"^(neck|rpn|backbone|cascade.mask_head|cascade.pooling|cascade.pooled_levels|semantic.context)=|deformable=v2"
)
"""Cases beside these whose graph is exported: every kind of part."""
RESUMED = (
    "training.average_decay=0.9",
    "training.SGD, steps, accumulate",
    "training.everything augmented",
    "training.layer decay",
    "training.boxes alone",
)
"""Cases whose training is stopped and resumed."""


def parts_of(name: str, *, quick: bool) -> dict[str, Part]:
    """The parts that a case is compared in."""
    if name.startswith(("training.", "input.")):
        parts: dict[str, Part] = {"train": train_part}
        if name.startswith("input."):
            parts["predict"] = predict_part
        if not quick and name in RESUMED:
            parts["resume"] = resume_part
        return parts
    if name.startswith("inference."):
        return {"predict": predict_part}
    parts = {"names": names_part, "initial": initial_part, "predict": predict_part}
    if not quick and name in WHOLE_MODEL:
        parts |= {"views": views_part, "evaluate": evaluate_part}
    if not quick and (name in WHOLE_MODEL or re.search(EXPORTED, name)):
        parts["export"] = export_part
    return parts | {"steps": steps_part}  # last: it changes the weights


def compute(request: Request) -> dict[str, Any]:
    """Part -> case -> entries, or the error that prevented them."""
    answer: dict[str, Any] = {}
    seconds: dict[str, float] = {}

    def run(part: str, name: str, work: Callable[[], Entries]) -> None:
        begin = time.process_time()
        known = kept_answer(request, part, name)
        entries: Entries
        if known is not None and known.is_file():
            entries = json.loads(known.read_text())
        else:
            try:
                entries = work()
            except Exception as error:  # reported as this case's result
                where = "".join(traceback.format_tb(error.__traceback__)[-3:])
                entries, known = {"error": f"{type(error).__name__}: {error}", "where": where}, None
        if known is not None and not known.is_file():
            known.parent.mkdir(parents=True, exist_ok=True)
            beside = known.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(entries))
            beside.replace(known)
        answer.setdefault(part, {})[name] = entries
        seconds[f"{part}/{name}"] = time.process_time() - begin

    for number, (name, values) in enumerate(request["cases"].items()):
        parts = parts_of(name, quick=request["quick"])
        chosen = {part: work for part, work in parts.items() if wanted(f"{part}/{name}", request["only"])}
        if chosen:
            case = Case(values, Path(request["work"]) / f"case{number}", composed=name in COMPOSED)
            for part, work in chosen.items():
                run(part, name, partial(work, case, request))
            shutil.rmtree(case.work, ignore_errors=True)
            print(f"{number + 1}/{len(request['cases'])} {name}", file=sys.stderr, flush=True)
    for name in sorted(path.stem for path in FIXTURES.glob("*.json")):
        if not request["quick"] and wanted(f"fixtures/{name}", request["only"]):
            folder = Path(request["work"]) / name
            run("fixtures", name, partial(fixtures_part, name, folder))
            shutil.rmtree(folder, ignore_errors=True)
            print(f"fixtures {name}", file=sys.stderr, flush=True)
    return {"parts": answer, "seconds": seconds}


def kept_answer(request: Request, part: str, name: str) -> Path | None:
    """The file of a case's entries from an earlier run of the same tree; None where they are not reused."""
    if "reused" not in request:
        return None
    key = json.dumps([part, name, request["cases"].get(name)], sort_keys=True)
    return Path(request["reused"]) / f"{hashlib.sha1(key.encode()).hexdigest()}.json"


def wanted(name: str, patterns: list[str]) -> bool:
    """Whether a `part/case` is among those asked for; none asked for: all."""
    return not patterns or any(matches(name, pattern) for pattern in patterns)


def main() -> None:
    """One of the uses in the module's docstring."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    if sys.argv[1] == "htc":
        interrupt_after(int(sys.argv[2]), sys.argv[3:])
        return
    answer = compute(json.loads(Path(sys.argv[2]).read_text()))
    Path(sys.argv[3]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
