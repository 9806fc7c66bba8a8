"""A small table of results: columns by name, rows as dictionaries, readable in a terminal and in a notebook."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True, repr=False)
class Table:
    """Rows with the same columns.

    `table["ap"]` is a column as a list, `table[0]` a row as a dictionary; iterating gives the rows. For pandas:
    `pandas.DataFrame(table.to_dict())`.

    Example:
        >>> table = Table(("class", "ap"), (("cat", 0.41), ("dog", 0.38)))
        >>> table["ap"]
        [0.41, 0.38]
        >>> table[1]
        {'class': 'dog', 'ap': 0.38}
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> "Table":
        """Build a table from dictionaries; columns are in order of first occurrence, missing values are `None`."""
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        return cls(columns, tuple(tuple(row.get(name) for name in columns) for row in rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def __getitem__(self, key: str | int) -> Any:
        """Return a column by its name (list), or a row by its index (dict)."""
        if isinstance(key, int):
            return dict(zip(self.columns, self.rows[key], strict=True))
        if key not in self.columns:
            raise KeyError(f"no column {key!r}: there are {', '.join(self.columns)}")
        index = self.columns.index(key)
        return [row[index] for row in self.rows]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the columns as lists, by name."""
        return {name: self[name] for name in self.columns}

    def to_csv(self) -> str:
        """Return the table as CSV text with a header row."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def __repr__(self) -> str:
        """Format as aligned columns, with numbers aligned to the right."""
        cells = [self.columns, *(tuple(_text(value) for value in row) for row in self.rows)]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        numeric = [all(_is_number(row[index]) for row in self.rows) for index in range(len(widths))]
        lines = []
        for row in cells:
            aligned = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ]
            lines.append("  ".join(aligned).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Format as an HTML table for notebooks."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(_text(value))}</td>' for value in row)}</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _is_number(value: Any) -> bool:
    """Whether a cell is a number or the text of one: `43.1`, or `-` for undefined."""
    return not isinstance(value, str) or value.removeprefix("-").replace(".", "", 1).isdecimal() or value == "-"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
