"""Extension of griffe for the Python reference: `Example:` of a docstring is the section that griffe calls `Examples:`.

Otherwise its `>>>` lines would be read as Markdown.
"""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Examples(Extension):
    """Names the section of each docstring as griffe's parser expects it."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:  # noqa: ARG002 - the signature of the hook
        """Rename the section of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)
