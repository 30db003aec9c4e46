"""Labels as they arrive, from a file, a query or a request, and as they are kept beside the predictions.

    endpoint=wine/labels/20261125T140730-1f2e3d4c5b6a.parquet

A label belongs to a request id and to a record of that request (`row`, 0 where it is not given). Of several for one
record the newest counts. A file is named by its content, so that labels that are sent twice are kept once.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy

from headgate.errors import BadInputError, MonitorError
from headgate.installation import install_command
from monitoring.parquet import ParquetFile, UnreadableError, reading
from monitoring.predictions.store import store_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from monitoring.predictions import PredictionStore

_FOLDER = "labels"
_SCHEMA = pa.schema([("request_id", pa.string()), ("row", pa.int32()), ("label", pa.string())])
_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    # As text, or an id of digits would lose its zeros.
    ".csv": lambda path: pd.read_csv(path, dtype={"request_id": str}),
    ".parquet": lambda path: ParquetFile(path).read(path).to_pandas(),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype={"request_id": str}),
}
_MOST_ROWS = 2**31


class Labels:
    """The labels of one endpoint.

    Args:
        store: where its predictions are.

    Attributes:
        unreadable: files that could not be read, and why; the others' labels count.
    """

    def __init__(self, store: PredictionStore) -> None:
        self._store = store
        self.unreadable: dict[str, str] = {}

    def add(self, labels: pa.Table, at: datetime) -> int:
        """Keep labels.

        Args:
            labels: from one of this module's functions.
            at: the present.

        Returns:
            How many are new; none where these very labels were added before.

        Raises:
            MonitorError: the store cannot be written to.
        """
        buffer = io.BytesIO()
        pq.write_table(labels, buffer, compression="zstd")
        name = hashlib.sha256(buffer.getvalue()).hexdigest()[:12]
        if any(path.endswith(f"-{name}.parquet") for path in self._store.others(_FOLDER)):
            return 0
        self._store.put(f"{_FOLDER}/{at:%Y%m%dT%H%M%S}-{name}.parquet", buffer.getvalue())
        return int(labels.num_rows)

    def update(self, labels: pa.Table, at: datetime) -> int:
        """Keep those of some labels that are not known yet, or were others: what a query gives again at each check.

        Raises:
            MonitorError: the store cannot be read or written to.
        """
        given = labels.to_pandas()
        known = given.merge(self.read(), on=_SCHEMA.names, how="left", indicator="is_new")["is_new"] == "both"
        fresh = labels.filter(pa.array(~known.to_numpy()))
        return self.add(fresh, at) if fresh.num_rows else 0

    def read(self) -> pd.DataFrame:
        """All labels, one a record of a request: request_id, row, label.

        Raises:
            MonitorError: the store cannot be read.
        """
        parts, self.unreadable = [], {}
        for path in sorted(self._store.others(_FOLDER)):
            try:
                with reading(), self._store.open(path) as file:
                    parts.append(_kept(file))
            except UnreadableError as error:
                self.unreadable[path] = str(error)
            except store_errors() as error:
                raise MonitorError(f"{path} cannot be read: {error}", fix="see the store") from error
        if not parts:
            return pd.DataFrame({name: [] for name in _SCHEMA.names})
        merged: pd.DataFrame = pd.concat(parts).drop_duplicates(["request_id", "row"], keep="last", ignore_index=True)
        return merged


def _kept(file: io.BufferedIOBase) -> pd.DataFrame:
    """The labels of a file of the store."""
    table = ParquetFile(file).read(file, _SCHEMA.names).cast(_SCHEMA)
    if missing := sum(column.null_count for column in table.columns):
        raise UnreadableError(f"{missing} of its values are missing")
    labels: pd.DataFrame = table.to_pandas()
    return labels


def labels_from_file(path: Path) -> pa.Table:
    """Labels from a CSV, Parquet or JSON-lines file with the columns request_id, label and perhaps row.

    Raises:
        BadInputError: it is none.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise BadInputError(f"{path} is neither {', '.join(_READERS)}", fix="write it as one of these")
    if not path.is_file():
        raise BadInputError(f"there is no file {path}", fix="name one with the columns request_id and label")
    try:
        with reading():
            return _labels(reader(path), str(path))
    except UnreadableError as error:
        raise BadInputError(f"{path} cannot be read: {error}", fix=f"write it as {path.suffix[1:]}") from error


def labels_from_query(url: str, query: str, since: datetime | None = None) -> pa.Table:
    """Labels from a database.

    Args:
        url: as SQLAlchemy has it; it is shown to nobody.
        query: gives the columns request_id, label and perhaps row.
        since: what `:since` in it stands for.

    Raises:
        BadInputError: it cannot be asked, or gives something else.
    """
    try:
        with sqlalchemy.create_engine(url).connect() as connection:
            asked = sqlalchemy.text(query)
            if since is not None and "since" in asked.compile().params:
                asked = asked.bindparams(since=since)
            frame = pd.read_sql(asked, connection)
    except ImportError as error:
        raise BadInputError(
            f"the labels' database needs a driver that is not installed: {error.name or str(error).splitlines()[0]}",
            fix=f"for PostgreSQL write postgresql+psycopg://…, and run: {install_command('postgresql')}",
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, pd.errors.DatabaseError) as error:
        # The whole text may hold the URL.
        cause = error.__cause__ if isinstance(error, pd.errors.DatabaseError) else error
        why = str(getattr(cause, "orig", None) or type(cause).__name__).splitlines()[0]
        raise BadInputError(f"the labels cannot be queried: {why}", fix="see --database-env and --query") from error
    return _labels(frame, "the query")


def labels_from_json(labels: Sequence[Any]) -> pa.Table:
    """Labels from a request's list of {"request_id": …, "label": …, "row": …}.

    Raises:
        BadInputError: they are none.
    """
    if not labels or not all(isinstance(label, dict) for label in labels):
        raise BadInputError("labels is a list of objects", fix='[{"request_id": "…", "label": 1}]')
    return _labels(pd.DataFrame(list(labels)), "labels")


def _labels(frame: pd.DataFrame, where: str) -> pa.Table:
    missing = [name for name in ("request_id", "label") if name not in frame]
    if missing:
        raise BadInputError(
            f"{where} has no column {' and '.join(missing)}, only {', '.join(map(str, frame.columns)) or 'none'}",
            fix="call them request_id and label",
        )
    given = frame["row"] if "row" in frame else pd.Series(0, frame.index)
    rows = pd.to_numeric(given, errors="coerce").where(given.notna(), 0).fillna(-1)
    bad = frame["request_id"].isna() | frame["label"].isna() | (rows < 0) | (rows >= _MOST_ROWS) | (rows % 1 != 0)
    if bad.any():
        raise BadInputError(
            f"{where}: {bad.sum()} of {len(frame)} labels have no request_id, no label or no whole row, the first is "
            f"number {int(bad.to_numpy().argmax()) + 1}",
            fix="leave them out",
        )
    text = {
        "request_id": frame["request_id"].map(str),
        "row": rows.astype("int32"),
        "label": frame["label"].map(as_text),
    }
    return pa.Table.from_pandas(pd.DataFrame(text), schema=_SCHEMA, preserve_index=False)


def as_text(label: object) -> str:
    """Whole numbers are the same as integers; true is what JSON calls it."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
