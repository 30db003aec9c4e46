"""A loaded MLflow model, and the quickest way to ask it that gives MLflow's own answer.

Four ways, tried from the quickest when the model is loaded:

- **array**: all inputs are numbers, and the flavour takes an ndarray. JSON → ndarray → model.
- **columns**: a scikit-learn pipeline that begins with a column transformer. JSON → an array a transformer → model.
- **frame**: inputs are scalar columns. JSON → the frame that MLflow's enforcement would build → model.
- **mlflow**: MLflow's scoring functions, which every model has, and every unusual body takes.

A quick way is only taken when it gave the same answer as MLflow's for the model's example and for made-up
rows, and none where the model raised; and a body that it does not read exactly goes to MLflow's, which decides
about errors too.
"""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.types import DataType

from headgate_server import answers, shortcuts
from headgate_server.incomplete import lacks_values
from headgate_server.payloads import Columns, rounds_alike
from headgate_server.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger("headgate_server")

JSON = "application/json"
_UTF_8 = ("charset=utf-8", "charset=UTF-8")
_QUICK_TYPES = frozenset({JSON, *(f"{JSON};{space}{charset}" for space in ("", " ") for charset in _UTF_8)})
"""Content types of which MLflow's server takes JSON; it decides about any other."""
_BAD_REQUEST, _UNSUPPORTED = "BAD_REQUEST", "UNSUPPORTED_MEDIA_TYPE"
_MADE_UP_ROWS = 3
MOST_MESSAGE = 4000
"""Characters of an error's message. MLflow's messages quote the whole body, at ten times its size if it is binary."""


class Answer(NamedTuple):
    """A status, a body and its content type."""

    status: int
    body: bytes
    content_type: str = JSON


def refusal(status: int, code: str, message: str) -> Answer:
    """An error's answer, of the form that MLflow's have, with the beginning of a long message."""
    return Answer(status, json.dumps({"error_code": code, "message": message[:MOST_MESSAGE]}).encode())


class ModelRaisedError(Exception):
    """The model itself raised, on input that its signature allows."""


class ServedModel:
    """A model that answers request bodies.

    Args:
        folder: the model's folder, with `MLmodel`.
    """

    def __init__(self, folder: Path) -> None:
        self._model = pyfunc.load_model(str(folder))
        self._schema = self._model.metadata.get_input_schema()
        self._columns = Columns(self._schema) if Columns.can_read(self._schema) else None
        self._shape = Shape(self._schema)
        # A model that was trained on named columns warns about every array without names.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        self._quick: Callable[[Any], bytes | None] | None = None
        self.way = "mlflow"
        try:
            self._choose_way()
        except Exception:
            # MLflow's own way always works; losing a shortcut must not lose the model.
            logger.exception("no quicker way to ask this model could be tried")

    def _choose_way(self) -> None:
        for way, ask in self._quick_ways():
            if self._agrees(ask):
                self._quick, self.way = ask, way
                return

    @property
    def csv_types(self) -> dict[str, str] | None:
        """The pandas type by which MLflow reads each column of a CSV; None where the values decide."""
        if self._schema is None or self._schema.is_tensor_spec() or not self._schema.has_input_names():
            return None
        kinds = zip(self._schema.input_names(), self._schema.pandas_types(), strict=True)
        return {name: str(np.dtype(kind)) for name, kind in kinds}

    def answer(self, body: bytes, content_type: str = JSON) -> Answer:
        """Answer one request; a refusal's body is JSON with `error_code` and `message`, as MLflow's is.

        Raises:
            ModelRaisedError: the model raised; its cause is the model's exception.
        """
        return self.quick_answer(body, content_type) or self.mlflow_answer(body, content_type)

    def quick_answer(self, body: bytes, content_type: str = JSON) -> Answer | None:
        """The answer by the quick way; None where MLflow's own is to be asked."""
        if self._quick is None or content_type not in _QUICK_TYPES:
            return None
        try:
            encoded = self._quick(orjson.loads(body))
        except orjson.JSONDecodeError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever a model raises
            # MLflow's own way raises too, and tells whose fault it is; or it can do what this one cannot.
            logger.debug("the quick way to ask this model failed, MLflow's is asked: %r", error)
            return None
        return None if encoded is None else Answer(200, encoded)

    def mlflow_answer(self, body: bytes, content_type: str) -> Answer:
        """The answer by MLflow's scoring functions.

        Raises:
            ModelRaisedError: see `answer`.
        """
        if why := self._shape.misfit(body, content_type):
            return refusal(400, _BAD_REQUEST, why)
        call = _Call(self._model)
        try:
            reply = scoring_server.invocations(body, content_type, call, self._schema)
        except MlflowException as error:
            if call.raised is not None and not lacks_values(call.asked, self._schema):
                raise ModelRaisedError from call.raised
            status = error.get_http_status_code()
            if status < 500:  # noqa: PLR2004
                return refusal(status, error.error_code, error.message)
            # MLflow calls a body that breaks the signature an internal error in places; it is the client's.
            return refusal(400, _BAD_REQUEST, error.message)
        except Exception as error:
            if call.has_answered:
                # What the model answered cannot be written as JSON.
                raise ModelRaisedError from error
            # MLflow's parser itself fell over a malformed body.
            return refusal(400, _BAD_REQUEST, f"the body cannot be read: {error!r}")
        if reply.status >= 400:  # noqa: PLR2004
            return refusal(reply.status, _UNSUPPORTED, reply.response)
        return Answer(reply.status, reply.response.encode(), reply.mimetype)

    def _quick_ways(self) -> list[tuple[str, Callable[[Any], bytes | None]]]:
        """The ways that this model's metadata allows, quickest first."""
        metadata = self._model.metadata
        if metadata.get_params_schema() is not None:
            return []
        # Such models convert their input themselves. Models logged by MLflow 2 do not know the question.
        hints = ("_is_signature_from_type_hint", "_is_type_hint_from_example")
        if any(getattr(metadata, name)() for name in hints if hasattr(metadata, name)):
            return []
        flavour = self._model.loader_module
        if self._schema is not None and self._schema.is_tensor_spec():
            unnamed = len(self._schema.inputs) == 1
            return [("array", self._ask_tensor())] if flavour in shortcuts.FLAVOURS and unnamed else []
        if self._columns is None:
            return []
        ways: list[tuple[str, Callable[[Any], bytes | None]]] = []
        if self._columns.is_numeric and flavour in shortcuts.FLAVOURS:
            ways += [
                ("array", self._ask_array(self._columns, predict))
                for predict in shortcuts.array_predictors(self._model)
            ]
        by_column = shortcuts.column_predictor(self._model)
        if by_column is not None:
            ways.append(("columns", self._ask_columns(self._columns, by_column)))
        return [*ways, ("frame", self._ask_frame(self._columns))]

    def _ask_array(self, columns: Columns, predict: Callable[[np.ndarray], Any]) -> Callable[[Any], bytes | None]:
        def ask(document: Any) -> bytes | None:  # noqa: ANN401
            rows = columns.rows(document)
            array = None if rows is None else columns.array(rows)
            return None if array is None else answers.encode(predict(array))

        return ask

    def _ask_frame(self, columns: Columns) -> Callable[[Any], bytes | None]:
        predict = shortcuts.flavour_predict(self._model)

        def ask(document: Any) -> bytes | None:  # noqa: ANN401
            rows = columns.rows(document)
            frame = None if rows is None else columns.frame(rows)
            return None if frame is None else answers.encode(predict(frame))

        return ask

    def _ask_columns(self, columns: Columns, predict: Callable[[dict[str, Any]], Any]) -> Callable[[Any], bytes | None]:
        def ask(document: Any) -> bytes | None:  # noqa: ANN401
            rows = columns.rows(document)
            by_name = None if rows is None else columns.columns(rows)
            return None if by_name is None else answers.encode(predict(by_name))

        return ask

    def _ask_tensor(self) -> Callable[[Any], bytes | None]:
        """One tensor input, in `instances` or `inputs` as nested lists."""
        predict, spec = shortcuts.flavour_predict(self._model), self._schema.inputs[0]

        def ask(document: Any) -> bytes | None:  # noqa: ANN401
            if type(document) is not dict or len(document) != 1:
                return None
            ((form, content),) = document.items()
            if form not in {"inputs", "instances"} or type(content) is not list:
                return None
            try:
                array = np.array(content)
            except ValueError:
                return None
            fits = len(spec.shape) == array.ndim and all(
                wanted in {-1, have} for wanted, have in zip(spec.shape, array.shape, strict=True)
            )
            if not fits or array.dtype.kind not in "if" or spec.type.kind != "f":
                return None
            if array.dtype.kind == "i" and spec.type.itemsize < array.dtype.itemsize and not rounds_alike(array):
                return None
            return answers.encode(predict(array.astype(spec.type, copy=False)))

        return ask

    def _agrees(self, ask: Callable[[Any], bytes | None]) -> bool:
        """Whether a quick way gives MLflow's own answer for the example and for made-up rows, where the model has one.

        Where it has none, as it raises for values out of its range, the quick way must have none either: MLflow's own
        way is asked then. Rows that have no answer together are asked one by one. One answer at least is compared.
        """
        probes, is_compared = self._probes(), False
        while probes:
            document = probes.pop(0)
            expected = self._expected(document)
            try:
                quick = ask(document)
            except Exception as error:  # noqa: BLE001 - whatever a model raises
                logger.info("a quicker way to ask this model fails: %r", error)
                quick = None
            if expected is None and quick is None:
                probes += _one_by_one(document)
            elif expected is None or quick is None or json.loads(quick) != expected:
                return False
            else:
                is_compared = True
        return is_compared

    def _expected(self, document: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Return the answer by MLflow's scoring functions; None where the model raises or the body is refused."""
        try:
            answer = self.mlflow_answer(json.dumps(document).encode(), JSON)
        except ModelRaisedError:
            return None
        return json.loads(answer.body) if answer.status == 200 else None  # noqa: PLR2004

    def _probes(self) -> list[dict[str, Any]]:
        probes = []
        example = self._example()
        if example is not None:
            probes.append(example)
        if self._columns is not None and (self._columns.is_numeric or example is None):
            rows = [[_made_up(kind, row) for kind in self._schema.input_types()] for row in range(_MADE_UP_ROWS)]
            probes.append({"dataframe_split": {"columns": self._columns.names, "data": rows}})
        elif self._columns is None and self._schema is not None and example is None:
            shape = [_MADE_UP_ROWS if size == -1 else size for size in self._schema.inputs[0].shape]
            probes.append({"inputs": np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).tolist()})
        return probes

    def _example(self) -> dict[str, Any] | None:
        """The logged input example as a request body, where it is one that a quick way may read."""
        example = self._model.input_example
        if isinstance(example, pd.DataFrame) and self._columns is not None:
            document: dict[str, Any] = json.loads(
                json.dumps({"dataframe_split": example.to_dict(orient="split", index=False)}, default=str)
            )
            return document
        if isinstance(example, np.ndarray) and self._columns is None:
            return {"inputs": example.tolist()}
        return None


def _one_by_one(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a body for each row of a body with several; none for other bodies."""
    split = document.get("dataframe_split", {"data": []})
    if len(split["data"]) <= 1:
        return []
    return [{"dataframe_split": {**split, "data": [row]}} for row in split["data"]]


class _Call:
    """A model for one call of MLflow's scoring function, which hides whether the model or the parser raised.

    Attributes:
        asked: what MLflow's parser made of the body.
        raised: the model's exception, where it is not about the input.
        has_answered: whether the model did.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._model = model
        self.metadata = model.metadata
        self.asked: Any = None
        self.raised: Exception | None = None
        self.has_answered = False

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Ask the model, and remember an exception that is not about the input."""
        self.asked = data
        try:
            answer = self._model.predict(data, params=params)
        except MlflowException:
            raise
        except Exception as error:
            self.raised = error
            raise
        self.has_answered = True
        return answer


def _made_up(kind: DataType, row: int) -> Any:  # noqa: ANN401
    if kind in {DataType.double, DataType.float}:
        return row * 0.75 - 0.5
    if kind is DataType.boolean:
        return row % 2 == 0
    return "a" if kind is DataType.string else row
