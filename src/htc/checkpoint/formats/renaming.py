"""Names of parameters by rules."""

import re
from collections.abc import Sequence

Rules = Sequence[tuple[str, str]]
"""(pattern, replacement), first match wins."""


def rename(name: str, rules: Rules) -> str:
    """The name as the first rule that matches makes it; without any it comes back unchanged."""
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name
