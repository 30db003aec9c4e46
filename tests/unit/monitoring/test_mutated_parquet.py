"""Parquet files with faults: read, or refused as a file; the long run is in `make hostile`."""

from __future__ import annotations

import io
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import mutated_parquet
from support.mutated_parquet import MEMORY, check, sound

from headgate.monitor import Monitor
from headgate_server.shape import Shape
from monitoring.bodies import PARQUET, records
from monitoring.drift import check_drift
from monitoring.drift.columns import ParquetColumns
from monitoring.drift.reference import Reference
from monitoring.parquet import ParquetFile, UnreadableError
from monitoring.predictions import Predictions, PredictionStore
from monitoring.truth.labels import Labels

FILES = 150


def test_each_is_read_or_refused_as_a_file_and_none_hangs_or_ends_the_process():
    found = check(range(FILES))
    assert found.wrong == []
    assert found.ends["read"] > FILES // 10
    assert found.ends["refused"] > FILES // 5


@pytest.mark.parametrize("kind", ["first", "null", "long"])
def test_a_small_file_of_many_rows_is_refused_before_it_takes_memory(kind):
    content = mutated_parquet._many_rows("reference", kind)
    before = pa.total_allocated_bytes()
    with pytest.raises(UnreadableError, match=r"would take .* MiB, and .* are allowed"):
        ParquetFile(file := io.BytesIO(content)).read(file)
    assert records(content, b"{}", PARQUET) is None
    assert "in memory" in Shape(None).misfit(content, PARQUET)
    assert pa.total_allocated_bytes() - before < MEMORY


def test_sound_files_are_taken():
    assert Shape(None).misfit(sound("body"), PARQUET) == ""
    assert records(sound("body"), b"{}", PARQUET)


def test_a_file_with_too_many_columns_is_refused():
    table = pa.table({f"n{number}": [1] for number in range(5001)})
    with pytest.raises(UnreadableError, match="5001 columns, and at most 5000"):
        ParquetFile(io.BytesIO(mutated_parquet._written(table)))


def test_a_column_that_turns_out_to_be_unreadable_takes_its_file_and_no_other(tmp_path):
    """The file's description and its first columns are sound, so only reading the rest shows it."""
    window = _window(tmp_path, _spoilt("input.a"))
    assert window.num_rows == 2 * mutated_parquet._ROWS
    found = window.whole(lambda: check_drift(window, mutated_parquet._known(), Monitor(min_rows=1)))
    assert found.rows == window.num_rows == mutated_parquet._ROWS
    ((path, why),) = window.unreadable.items()
    assert path.endswith("1400-0.parquet")
    assert why
    assert window.column("a").null_count == 0


def test_a_fixed_column_of_another_type_takes_its_file_and_no_other(tmp_path):
    table = pq.read_table(io.BytesIO(sound("window")))
    place = table.column_names.index("time")
    table = table.set_column(place, "time", pa.array(["noon"] * table.num_rows))
    window = _window(tmp_path, mutated_parquet._written(table))
    assert window.num_rows == mutated_parquet._ROWS
    assert len(window.unreadable) == 1


def test_kept_labels_that_cannot_be_read_are_noted_and_the_others_count(tmp_path):
    folder = tmp_path / "endpoint=e" / "labels"
    folder.mkdir(parents=True)
    (folder / "20261125T140730-000000000000.parquet").write_bytes(b"PAR1")
    (folder / "20261125T140700-000000000001.parquet").write_bytes(sound("kept labels"))
    kept = Labels(PredictionStore(str(tmp_path), "e"))
    assert len(kept.read()) == mutated_parquet._ROWS
    assert [path.rpartition("/")[2] for path in kept.unreadable] == ["20261125T140730-000000000000.parquet"]


def test_a_reference_of_odd_types_is_compared_or_passed_over(tmp_path):
    path = tmp_path / "reference.parquet"
    table = pa.table({"half": pa.array([1.0, 2.0] * 20, pa.float16()), "nested": [[1]] * 40, "x": list(range(40))})
    path.write_bytes(mutated_parquet._written(table))
    found = Reference.of(ParquetColumns(path))
    assert set(found.profiles) == {"half", "x"}
    assert "is nested" in found.passed_over["nested"]


def _spoilt(name: str) -> bytes:
    """A window whose one column has pages of zeros."""
    content = bytearray(sound("window"))
    group = pq.read_metadata(io.BytesIO(content)).row_group(0)
    column = next(one for one in map(group.column, range(group.num_columns)) if one.path_in_schema == name)
    first = column.dictionary_page_offset or column.data_page_offset
    content[first : first + column.total_compressed_size] = bytes(column.total_compressed_size)
    return bytes(content)


def _window(folder, content: bytes) -> Predictions:
    slot = mutated_parquet._SLOT
    path = folder / f"endpoint=e/date={slot:%Y-%m-%d}/revision=v1"
    path.mkdir(parents=True)
    (folder / "endpoint=e/taken.json").write_text(f'{{"until": "{mutated_parquet._NOW.isoformat()}"}}')
    (path / f"{slot:%H%M}-0.parquet").write_bytes(content)
    (path / f"{slot - timedelta(minutes=10):%H%M}-0.parquet").write_bytes(sound("window", minutes=10))
    return Predictions(PredictionStore(str(folder), "e"), lambda _: iter(()), "v1", mutated_parquet._HOUR)
