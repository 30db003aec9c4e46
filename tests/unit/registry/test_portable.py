"""Histories as files: whole, checked, and read by later versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from headgate.errors import BadInputError, EndpointBusyError, JournalChangedError
from headgate.spec import ReleaseSpec
from registry import Entry, Journal, Kind, Lease, history
from registry.journal import entries
from registry.portable import export_lines, import_rows, read_file

VERSION_1 = Path(__file__).parent / "history-v1.jsonl"


def note(what: str, endpoint: str = "wine") -> Entry:
    return Entry(endpoint=endpoint, release_id="r1", kind=Kind.NOTE, what=what, actor="dana", evidence={"ä": [1, 2.5]})


@pytest.fixture
def filled(journal):
    for number in range(5):
        journal.append(note(f"row {number}"))
    journal.append(note("elsewhere", "beer"))
    return journal


@pytest.fixture
def empty(tmp_path):
    opened = Journal(f"sqlite:///{tmp_path / 'other.db'}")
    yield opened
    opened.close()


def test_a_history_moves_whole_and_goes_on_there(filled, empty):
    header, rows = read_file(export_lines(filled, "wine", {"champion": 3}))
    assert (header.rows, header.aliases) == (5, {"champion": 3})
    assert import_rows(empty, header, rows) == 5
    assert empty.read("wine") == filled.read("wine")
    assert empty.endpoints() == ["wine"]
    empty.append(note("and on"))
    assert empty.verify("wine") == 6
    assert import_rows(empty, header, rows) == 0, "it is there already"
    assert import_rows(filled, *read_file(export_lines(empty, "wine", {}))) == 1, "only what is new"
    assert filled.verify("wine") == 6


def test_another_history_of_the_same_endpoint_is_refused(filled, empty):
    empty.append(note("row 0"))
    with pytest.raises(BadInputError, match="another history of wine: they differ from row 1 on"):
        import_rows(empty, *read_file(export_lines(filled, "wine", {})))
    assert len(empty.read("wine")) == 1


def test_an_endpoint_that_is_held_is_left_alone(filled, empty):
    with Lease(empty, "wine", "r2"), pytest.raises(EndpointBusyError):
        import_rows(empty, *read_file(export_lines(filled, "wine", {})))
    assert empty.read("wine") == []


@pytest.mark.parametrize(("change", "says"), [
    (lambda lines: lines[:-1], "row 5 of 5"),
    (lambda lines: [lines[0], *lines[2:]], "row 1 of 5"),
    (lambda lines: [line.replace("row 2", "row two") for line in lines], "row 3 of 5"),
    (lambda lines: [*lines, lines[-1]], "row 6 of 5"),
    (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "row 1 of 5"),
])  # fmt: skip
def test_a_file_that_was_changed_is_refused(filled, change, says):
    lines = change(list(export_lines(filled, "wine", {})))
    with pytest.raises(JournalChangedError, match=says):
        read_file(lines)


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"headgate": 1}', "[1]", '{"endpoint": "wine", "rows": "x"}'])
def test_what_is_no_exported_history_is_refused(text):
    with pytest.raises(BadInputError, match="no exported history"):
        read_file(text.splitlines())


@pytest.mark.parametrize("row", ["1", "{}", '{"schema": "x"}', '{"schema": 1, "endpoint": "beer"}', "[]"])
def test_a_line_that_is_no_row_is_named(filled, row):
    lines = list(export_lines(filled, "wine", {}))
    with pytest.raises(BadInputError, match="line 3 is no row of wine's history"):
        read_file([*lines[:2], row, *lines[3:]])


@pytest.mark.parametrize("change", [lambda row: row.pop("what"), lambda row: row.update(more=1)])
def test_a_row_with_too_little_or_too_much_is_named(filled, change):
    lines = list(export_lines(filled, "wine", {}))
    row = json.loads(lines[2])
    change(row)
    with pytest.raises(BadInputError, match=r"line 3 lacks, or should not have, (what|more)"):
        read_file([*lines[:2], json.dumps(row), *lines[3:]])


def test_what_a_later_version_wrote_is_refused_and_not_misread(filled):
    lines = list(export_lines(filled, "wine", {}))
    with pytest.raises(BadInputError, match="format 2, and this Headgate reads up to 1"):
        read_file([json.dumps({**json.loads(lines[0]), "format": 2}), *lines[1:]])
    with pytest.raises(BadInputError, match="row 1 of wine has schema 4"):
        read_file([lines[0], json.dumps({**json.loads(lines[1]), "schema": 4}), *lines[2:]])
    with filled.writing() as connection:
        connection.execute(entries.update().where(entries.c.seq == 4).values(schema=7))
    with pytest.raises(BadInputError, match="row 4 of wine has schema 7, and this Headgate reads up to 3"):
        filled.read("wine")


def test_a_damaged_history_is_not_exported_and_an_unknown_one_is_named(filled):
    with pytest.raises(BadInputError, match="no endpoint cider"):
        list(export_lines(filled, "cider", {}))
    with filled.writing() as connection:
        connection.execute(entries.update().where(entries.c.seq == 2, entries.c.endpoint == "wine").values(what="x"))
    with pytest.raises(JournalChangedError):
        list(export_lines(filled, "wine", {}))


def test_the_history_of_the_first_version_is_still_read(empty):
    """Rows as Headgate 0.1 wrote them; what was added since has to have a meaning where it is missing."""
    header, rows = read_file(VERSION_1.read_text(encoding="utf-8").splitlines())
    assert {row["schema"] for row in rows} == {1}
    import_rows(empty, header, rows)
    assert history.in_flight(empty, "wine") is None
    assert history.unfinished_rollback(empty, "wine") is None
    assert [reign.revision.version.version for reign in history.reigns(empty, "wine")] == [1, 2, 1]
    assert {reign.revision.image.server for reign in history.reigns(empty, "wine")} == {"serving"}
    assert history.predecessor(empty, "wine") is None
    spec = ReleaseSpec.model_validate(history.spec_of(empty, "wine"))
    assert (spec.endpoint, spec.when_abandoned) == ("wine", "rollback")
    assert len(history.shift_of(empty, "wine-2", "wine").looks) == 1
    assert empty.verify("wine") == header.rows == 14


def test_the_table_has_no_column_that_the_file_has_not(filled):
    _, rows = read_file(export_lines(filled, "wine", {}))
    assert set(rows[0]) == {column.name for column in sa.inspect(entries).columns}
