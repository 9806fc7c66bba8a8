"""Tables of results."""

import pytest

from htc.table import Table

TABLE = Table.from_rows([{"class": "cat", "ap": 0.41234}, {"class": "dog", "ap": 0.3, "note": "few & far"}])


def test_columns_and_rows():
    assert TABLE.columns == ("class", "ap", "note")
    assert TABLE["ap"] == [0.41234, 0.3]
    assert TABLE[0] == {"class": "cat", "ap": 0.41234, "note": None}
    assert [row["class"] for row in TABLE] == ["cat", "dog"]
    assert len(TABLE) == 2
    assert TABLE.to_dict() == {"class": ["cat", "dog"], "ap": [0.41234, 0.3], "note": [None, "few & far"]}
    assert TABLE.to_csv() == "class,ap,note\ncat,0.41234,\ndog,0.3,few & far\n"


def test_an_unknown_column_lists_the_known_ones():
    with pytest.raises(KeyError, match="no column 'AP': there are class, ap, note"):
        TABLE["AP"]


def test_it_is_readable():
    assert repr(TABLE).splitlines() == ["class      ap  note", "cat    0.4123", "dog       0.3  few & far"]
    assert "<td>few &amp; far</td>" in TABLE._repr_html_()


def test_no_rows():
    empty = Table.from_rows([])
    assert (len(empty), repr(empty), empty.to_dict()) == (0, "", {})
