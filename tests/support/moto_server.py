"""Moto's server with our double of SageMaker's hosting on it (support/sagemaker.py), as boto3 reaches it.

Requests and replies are held against botocore's service model; also against the patterns and limits in it, which
botocore leaves to the service.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.validate import ParamValidator
from moto.applicationautoscaling import models as scaling
from moto.applicationautoscaling import responses as scaling_responses
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.sagemaker.responses import SageMakerResponse
from moto.server import ThreadedMotoServer
from moto.servicequotas.responses import ServiceQuotasResponse
from werkzeug.wrappers import Request, Response

from support.faults import Fault, FaultError
from support.machines import Machines, hurried
from support.sagemaker import ROLE, SageMaker
from support.sagemaker_catalog import REGION, Refusal
from support.sagemaker_evidence import BUCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.pretended import Pretended

    Act = Callable[[dict[str, Any]], dict[str, Any]]

HOSTING = (
    "create_model", "describe_model", "list_models", "delete_model", "create_endpoint_config",
    "describe_endpoint_config", "list_endpoint_configs", "delete_endpoint_config", "create_endpoint",
    "describe_endpoint", "list_endpoints", "update_endpoint", "update_endpoint_weights_and_capacities",
    "delete_endpoint", "add_tags", "list_tags", "create_inference_component", "describe_inference_component",
    "list_inference_components", "update_inference_component", "update_inference_component_runtime_config",
    "delete_inference_component",
)  # fmt: skip

_SAID = {
    Fault.THROTTLED: (400, "ThrottlingException", "Rate exceeded"),
    Fault.BROKEN: (500, "InternalFailure", "An internal failure occurred"),
    Fault.CUT_OFF: (503, "ServiceUnavailable", "Service is unavailable"),
    Fault.EXPIRED: (400, "ExpiredTokenException", "The security token included in the request is expired"),
    Fault.DENIED: (
        400, "AccessDeniedException",
        "User: arn:aws:iam::123456789012:user/ci is not authorized to perform this action",
    ),
    Fault.QUOTA: (
        400, "ResourceLimitExceeded",
        "The account-level service limit 'ml.m5.large for endpoint usage' is 0 Instances, with a request delta of 1.",
    ),
}  # fmt: skip


@contextmanager
def sagemaker(name: str, machines: Machines | Pretended | None = None) -> Iterator[SageMaker]:
    """A running double, with a bucket and a role."""
    machines = machines or Machines(name)
    double = SageMaker(machines)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with _exposed(double), hurried(machines):
        server.start()
        host, port = server.get_host_and_port()
        double.url = f"http://{host}:{port}"
        # The same backends, where containers reach this machine.
        inner = ThreadedMotoServer(machines.host(), 0, verbose=False)
        inner.start()
        double.inside = {**double.environment, "AWS_ENDPOINT_URL": "http://{}:{}".format(*inner.get_host_and_port())}
        _prepare(double)
        # Its client is made here: boto3 makes no two at once.
        worker = threading.Thread(target=double.run, args=(double.client("s3"),), daemon=True)
        worker.start()
        try:
            yield double
        finally:
            double.close()
            worker.join(30)
            inner.stop()
            server.stop()
            machines.close()


@contextmanager
def _exposed(double: SageMaker) -> Iterator[None]:
    """What moto's response classes answer with the double."""
    acts: list[tuple[type, str, str, Act]] = [
        *((SageMakerResponse, "sagemaker", operation, getattr(double, operation)) for operation in HOSTING),
        (CloudWatchResponse, "cloudwatch", "get_metric_data", double.evidence.get_metric_data),
        (IamResponse, "iam", "simulate_principal_policy", double.simulate_principal_policy),
        (ServiceQuotasResponse, "service-quotas", "list_service_quotas", double.list_service_quotas),
    ]
    methods: list[tuple[Any, str, Any]] = [
        (owner, operation, _answering(double, service, operation, act)) for owner, service, operation, act in acts
    ]
    methods.append((DomainDispatcherApplication, "__call__", _invoking(double, DomainDispatcherApplication.__call__)))
    # https://docs.aws.amazon.com/autoscaling/application/APIReference/API_RegisterScalableTarget.html has one more.
    known = {one.name: one.value for one in scaling.ScalableDimensionValueSet}
    more = Enum("Dimensions", {**known, "COMPONENT": "sagemaker:inference-component:DesiredCopyCount"})
    methods += [(module, "ScalableDimensionValueSet", more) for module in (scaling, scaling_responses)]
    before = [(owner, operation, owner.__dict__.get(operation)) for owner, operation, _ in methods]
    for owner, operation, method in methods:
        setattr(owner, operation, method)
    try:
        yield
    finally:
        for owner, operation, method in before:
            if method is None:
                delattr(owner, operation)
            else:
                setattr(owner, operation, method)


def _answering(double: SageMaker, service: str, operation: str, act: Act) -> Callable[[Any], Any]:
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model("".join(part.title() for part in operation.split("_")))
    required = shape.output_shape.required_members if shape.output_shape else ()

    def method(response: Any) -> Any:
        asked = response._get_params()
        asked = asked.original_dict() if hasattr(asked, "original_dict") else dict(asked)

        def carry_out() -> dict[str, Any]:
            if problems := _problems(asked, shape.input_shape, operation):
                raise Refusal(f"{len(problems)} validation error detected: {'; '.join(problems)}")
            return act(asked)

        try:
            result = double.faults.around(operation, carry_out, dict.fromkeys(required, "arn:aws:none"))
        except Refusal as refusal:
            return _error(refusal.status, refusal.code, refusal.message)
        except FaultError as error:
            return _error(*_SAID[error.fault])
        if shape.output_shape is not None:
            report = ParamValidator().validate(result, shape.output_shape)
            assert not report.has_errors(), report.generate_report()
        return ActionResult(result)

    return method


def _problems(value: Any, shape: Any, where: str) -> list[str]:
    """What botocore leaves to the service: patterns and lengths."""
    if shape.type_name == "structure":
        known = shape.members
        return [one for key, part in value.items() if key in known for one in _problems(part, known[key], key)]
    if shape.type_name == "list":
        return [one for part in value for one in _problems(part, shape.member, where)]
    limits, problems = shape.metadata, []
    if shape.type_name == "string":
        if "pattern" in limits and not re.fullmatch(_pattern(limits["pattern"]), value):
            problems.append(f"Value '{value}' at '{where}' failed to satisfy constraint: {limits['pattern']}")
        if not limits.get("min", 0) <= len(value) <= limits.get("max", len(value)):
            problems.append(f"Value at '{where}' has a length of {len(value)}, at most {limits.get('max')}")
    is_number = shape.type_name in {"integer", "float"}
    if is_number and not limits.get("min", value) <= value <= limits.get("max", value):
        problems.append(f"Value '{value}' at '{where}' failed to satisfy constraint")
    return problems


def _pattern(pattern: str) -> str:
    # Java's class of all letters and the like.
    return re.sub(r"\\p\{\w+\}", r"\\w\\s", pattern)


def _prepare(double: SageMaker) -> None:
    s3, iam = double.client("s3"), double.client("iam")
    # Moto's account is the process's, and another double may have been there.
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    trusts = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole",
    }]}  # fmt: skip
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=ROLE.rpartition("/")[2], AssumeRolePolicyDocument=json.dumps(trusts))


def _error(status: int, code: str, message: str, **more: Any) -> tuple[int, dict[str, Any], str]:
    said = json.dumps({"__type": code, "message": message, "Message": message, **more})
    return status, {"x-amzn-errortype": code, "status": status}, said


def _invoking(double: SageMaker, other: Callable[..., Any]) -> Callable[..., Any]:
    """Answer requests to endpoints here, for which moto's way through its services takes many times as long."""

    def call(app: Any, environ: dict[str, Any], start_response: Any) -> Any:
        found = re.fullmatch("/endpoints/([^/]+)/invocations", environ["PATH_INFO"])
        if found is None:
            return other(app, environ, start_response)
        status, headers, said = _invoke(double, found[1], Request(environ))
        return Response(said, status, headers)(environ, start_response)

    return call


def _invoke(double: SageMaker, endpoint: str, request: Request) -> tuple[int, dict[str, Any], Any]:
    def carry_out() -> Any:
        return double.invoke(endpoint, request.get_data(), request.headers.get("Content-Type", ""), request.headers)

    try:
        status, variant, answer, said = double.faults.around("invoke_endpoint", carry_out, None)
    except Refusal as refusal:
        return _error(refusal.status, refusal.code, refusal.message)
    except FaultError as error:
        return _error(*_SAID[error.fault])
    if status >= 400:
        return _error(
            424, "ModelError", f"Received error ({status}) from primary", OriginalStatusCode=status,
            OriginalMessage=answer.decode(errors="replace"), LogStreamArn="arn:aws:logs:none",
        )  # fmt: skip
    return 200, {"Content-Type": said, "x-Amzn-Invoked-Production-Variant": variant}, answer
