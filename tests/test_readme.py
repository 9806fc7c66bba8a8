"""What the README promises exists: its two commands, every `htc` call's flags, the names in its Python, its links."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import htc
from htc.cli.app import build
from htc.cli.options import split

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CALLS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def test_the_two_commands_are_there() -> None:
    assert "pip install uv && uv run htc demo" in CALLS
    assert "pip install uv && uv run pytest" in CALLS


@pytest.mark.parametrize("call", [call for call in CALLS if call.startswith("htc ")])
def test_every_call_can_be_read(call: str) -> None:
    rest, _ = split(shlex.split(call)[1:], ())
    command, bound, _ = build().parse_args(rest, exit_on_error=False, print_error=False)
    assert command.__name__ == shlex.split(call)[1]
    assert bound.arguments or call == "htc models"


def test_the_python_uses_public_names() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "htc"
    }
    assert used
    assert used <= set(htc.__all__)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).is_file()
