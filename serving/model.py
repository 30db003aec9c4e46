"""A loaded MLflow model, and the quickest way to ask it that gives MLflow's own answer.

Four ways, tried from the quickest when the model is loaded:

- **array**: all inputs are numbers, and the flavour takes an ndarray. JSON → ndarray → model.
- **columns**: a scikit-learn pipeline that begins with a column transformer. JSON → an array a transformer → model.
- **frame**: inputs are scalar columns. JSON → the frame that MLflow's enforcement would build → model.
- **mlflow**: MLflow's scoring functions, which every model has, and every unusual body takes.

A quick way is only taken when it gave the same bytes as MLflow's for the model's example and for made-up
rows; and a body that it does not read exactly goes to MLflow's, which decides about errors too.
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

from serving import answers, shortcuts
from serving.payloads import Columns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger("serving")

JSON = "application/json"
_MADE_UP_ROWS = 3


class Answer(NamedTuple):
    """A status, a body and its content type."""

    status: int
    body: bytes
    content_type: str = JSON


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

    def answer(self, body: bytes, content_type: str = JSON) -> Answer:
        """Answer one request.

        Raises:
            ModelRaisedError: the model raised; its cause is the model's exception.
        """
        if self._quick is not None and content_type.startswith(JSON):
            try:
                document = orjson.loads(body)
            except orjson.JSONDecodeError:
                document = None
            encoded = None if document is None else self._quick_answer(document)
            if encoded is not None:
                return Answer(200, encoded)
        return self._mlflow_answer(body, content_type)

    def _quick_answer(self, document: Any) -> bytes | None:  # noqa: ANN401
        if self._quick is None:
            return None
        try:
            return self._quick(document)
        except Exception as error:
            raise ModelRaisedError from error

    def _mlflow_answer(self, body: bytes, content_type: str) -> Answer:
        call = _Call(self._model)
        try:
            reply = scoring_server.invocations(body, content_type, call, self._schema)
        except MlflowException as error:
            if call.raised is not None:
                raise ModelRaisedError from call.raised
            status = error.get_http_status_code()
            content = {"error_code": error.error_code, "message": error.message}
            # MLflow calls a body that breaks the signature an internal error in places; it is the client's.
            return Answer(status if status < 500 else 400, json.dumps(content).encode())  # noqa: PLR2004
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # MLflow's parser itself fell over a malformed body.
            if call.raised is not None:
                raise ModelRaisedError from call.raised
            return Answer(400, json.dumps({"error_code": "BAD_REQUEST", "message": repr(error)}).encode())
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
            return answers.encode(predict(array.astype(spec.type, copy=False)))

        return ask

    def _agrees(self, ask: Callable[[Any], bytes | None]) -> bool:
        """Whether a quick way gives MLflow's own answer for the example and for made-up rows."""
        probes = self._probes()
        for document in probes:
            try:
                quick = ask(document)
                reference = self._mlflow_answer(json.dumps(document).encode(), JSON)
            except Exception as error:  # noqa: BLE001 - a way that fails in any manner is not taken
                logger.info("a quicker way to ask this model fails: %r", error)
                return False
            if quick is None or reference.status != 200 or json.loads(quick) != json.loads(reference.body):  # noqa: PLR2004
                return False
        return bool(probes)

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


class _Call:
    """A model for one call of MLflow's scoring function, which hides who raised."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._model = model
        self.metadata = model.metadata
        self.raised: Exception | None = None

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Ask the model, and remember an exception that is not about the input."""
        try:
            return self._model.predict(data, params=params)
        except MlflowException:
            raise
        except Exception as error:
            self.raised = error
            raise


def _made_up(kind: DataType, row: int) -> Any:  # noqa: ANN401
    if kind in {DataType.double, DataType.float}:
        return row * 0.75 - 0.5
    if kind is DataType.boolean:
        return row % 2 == 0
    return "a" if kind is DataType.string else row
