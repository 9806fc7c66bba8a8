"""The generated pages of the documentation hold everything that they are generated from, and cost no torch."""

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from checks.faults import FIXED
from htc.checkpoint.zoo import catalogue
from htc.checks.kinds import FINDING_KINDS
from htc.cli.app import build
from htc.cli.commands import COMMANDS
from htc.cli.models import table_cells
from htc.settings.names import all_names

SCRIPT = Path(__file__).parent.parent / "scripts/reference_pages.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_listed(generator: ModuleType, name: str) -> None:
    text = generator.command_page(COMMANDS[name])
    rows = [line.split("|")[1:] for line in text.splitlines() if line.startswith(("| `", "| <code>"))]
    shown = [one for one in build(name)[name].assemble_argument_collection(parse_docstring=True) if one.show]
    assert len(rows) == len(shown)
    for argument in shown:
        ((_, meaning, *_),) = (row for row in rows if named(row[0], argument.names[0]))
        assert argument.parameter.help is not None
        assert " ".join(argument.parameter.help.split())[:20] in meaning.replace("&#124;", "|")


def named(cell: str, name: str) -> bool:
    """Whether a cell of the table is that of this argument: its first word, or one of its flags."""
    words = re.sub("[`,]|</?code>", "", cell).split()
    return words[0] == name or (name.startswith("-") and name in words)


def test_every_field_of_the_configuration_is_listed(generator: ModuleType) -> None:
    text = generator.configuration()
    assert [name for name in all_names() if f"| `{name}` |" not in text] == []


def test_every_field_of_the_configuration_is_described(generator: ModuleType) -> None:
    rows = [line.removeprefix("| `") for line in generator.configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row.split("`")[0] for row in rows if row.split("|")[-2].strip() == ""] == []


def test_every_finding_is_listed_with_whether_it_is_fixed(generator: ModuleType) -> None:
    text = generator.doctor_codes()
    for code, kind in FINDING_KINDS.items():
        assert f"| `{code}` | {kind.severity} |" in text
    assert {code for code, _ in FIXED} == generator.FIXABLE


def test_every_model_is_listed(generator: ModuleType) -> None:
    text = generator.models()
    for entry in catalogue():
        assert f"| `{entry.name}` | {' | '.join(table_cells(entry)[1:])} |" in text


def test_pages_are_the_same_every_time_and_need_no_torch() -> None:
    program = (
        f"import hashlib, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import reference_pages; "
        "print(hashlib.sha256(repr(reference_pages.pages()).encode()).hexdigest(), 'torch' in sys.modules)"
    )
    calls = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "ab"]
    assert calls[0].stdout == calls[1].stdout
    assert calls[0].stdout.endswith("False\n")


def test_dead_links_are_found(tmp_path: Path) -> None:
    loader = SourceFileLoader("docs_script", str(SCRIPT.parent / "docs"))
    spec = importlib.util.spec_from_loader("docs_script", loader)
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide/index.html").write_text("<h1 id='top'>a</h1><img src='no.png'><a href='../#end'>x</a>")
    (tmp_path / "index.html").write_text(
        "<a href='guide/'></a><a href='guide/#top'></a><a href='guide/#no'></a><a href='gone/'></a>"
        "<a href='https://example.com/gone'></a>"
    )
    assert script.dead_links(tmp_path) == [
        "guide/index.html: no.png",
        "guide/index.html: ../#end",
        "index.html: guide/#no",
        "index.html: gone/",
    ]
