"""SageMaker's answers that are none: a proxy's page, a field that is not there, and evidence that AWS does not give."""

from __future__ import annotations

import json
import threading
from http.server import ThreadingHTTPServer

import pytest
from support.cloud_http import CloudHandler

from deploy_targets.sagemaker import preflight
from deploy_targets.sagemaker.aws import Aws
from deploy_targets.sagemaker.evidence import Counter, end_of_counts
from deploy_targets.sagemaker.fleet import ADOPTED_SECONDS, Fleet
from deploy_targets.sagemaker.settings import SageMakerSettings
from deploy_targets.sagemaker.tagged import Tagged
from deploy_targets.sagemaker.target import SageMakerTarget
from headgate.errors import TargetUnavailableError
from headgate.records import Traffic

ARN = "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/churn"
SETTINGS = SageMakerSettings(kind="sagemaker", role="arn:aws:iam::123456789012:role/e", captures="s3://captures/live")
LIVE = {
    "EndpointName": "churn", "EndpointArn": ARN, "EndpointConfigName": "churn--1", "CreationTime": 0,
    "LastModifiedTime": 0, "ProductionVariants": [
        {"VariantName": "v1-00000000", "CurrentWeight": 1.0, "CurrentInstanceCount": 1, "DesiredInstanceCount": 1},
    ],
}  # fmt: skip


class _Answers(CloudHandler):
    says: list[tuple[bytes, str]]

    def answer(self, body: bytes) -> None:
        self.write(200, *self.says[-1], {})


@pytest.fixture
def says(monkeypatch):
    """What is answered, whatever is asked: the last of a list of bodies and their types."""
    handler = type("Handler", (_Answers,), {"says": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield handler.says
    server.shutdown()
    server.server_close()


def _json(content: object) -> tuple[bytes, str]:
    return json.dumps(content).encode(), "application/x-amz-json-1.1"


@pytest.mark.parametrize("page", [b"<html>Sign in</html>", b"\n <!DOCTYPE HTML><html><body/></html>"])
def test_a_proxys_page_is_no_answer_in_which_nothing_is_said(says, page):
    says.append((page, "text/html"))
    aws = Aws("")
    for call in (
        lambda: Fleet(aws, SETTINGS, "churn").described(),
        lambda: Tagged(aws).see_that_it_is_ours({"EndpointArn": ARN, "EndpointName": "churn"}),
        lambda: SageMakerTarget(SETTINGS).endpoints(),
    ):
        with pytest.raises(TargetUnavailableError, match="in the form that its reference gives") as caught:
            call()
        assert "proxy" in caught.value.fix


def test_a_field_that_is_not_there_is_named(says):
    says.append(_json({"EndpointName": "churn"}))
    with pytest.raises(TargetUnavailableError, match=r"AWS's describe_endpoint .* without 'EndpointStatus'"):
        Fleet(Aws(""), SETTINGS, "churn").settled()


@pytest.mark.parametrize(("status", "serves"), [("UpdateRollbackFailed", True), ("OutOfService", False)])
def test_an_endpoint_that_could_not_go_back_serves_with_what_it_has(says, status, serves, monkeypatch):
    says.append(_json({**LIVE, "EndpointStatus": status}))
    target = SageMakerTarget(SETTINGS)
    monkeypatch.setattr(target, "_models", lambda _endpoint: {})
    state = target.observe("churn")
    assert state.traffic == (Traffic.all_to("v1-00000000") if serves else None)
    assert state.revisions["v1-00000000"].ready is serves


@pytest.mark.parametrize("code", ["InternalError", "Forbidden"])
def test_counts_that_cloudwatch_does_not_give_are_none(monkeypatch, code):
    aws = Aws("eu-west-1")
    results = [{"Id": "q0", "StatusCode": "Complete", "Values": [5.0]}, {"Id": "q2", "StatusCode": code, "Values": []}]
    monkeypatch.setattr(aws, "call", lambda *_args, **_more: {"MetricDataResults": results})
    with pytest.raises(TargetUnavailableError, match=rf"Invocation5XXErrors.*{code}"):
        Counter(aws, latencies=False).read({"EndpointName": "churn"}, end_of_counts())
    results.pop()
    assert Counter(aws, latencies=False).read({"EndpointName": "churn"}, end_of_counts()).requests == 5


@pytest.mark.parametrize("result", [{"Id": "first", "Values": [1.0]}, {"Id": "q9", "Values": [1.0]}, {"Id": "q0"}])
def test_a_result_that_cannot_be_read_is_named(monkeypatch, result):
    aws = Aws("eu-west-1")
    monkeypatch.setattr(aws, "call", lambda *_args, **_more: {"MetricDataResults": [result]})
    with pytest.raises(TargetUnavailableError, match="GetMetricData"):
        Counter(aws, latencies=False).read({"EndpointName": "churn"}, end_of_counts())


@pytest.mark.parametrize(("key", "named"), [
    ("", None), ("alias/ours", "*"),
    ("arn:aws:kms:eu-west-1:123456789012:key/1", "arn:aws:kms:eu-west-1:123456789012:key/1"),
])  # fmt: skip
def test_whoever_releases_may_read_what_a_key_of_ones_own_encrypts(key, named):
    policy = preflight.policy(SETTINGS.model_copy(update={"kms_key": key}))
    found = [one["Resource"] for one in policy["Statement"] if "kms:Decrypt" in one["Action"]]
    assert found == ([named] if named else [])


def test_who_adopts_a_change_waits_as_long_as_a_container_may_take_to_start(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(
        "deploy_targets.sagemaker.fleet.poll", lambda _look, _done, seconds, _what: waited.append(seconds)
    )
    Fleet(Aws("eu-west-1"), SETTINGS, "churn").settled()
    assert waited == [ADOPTED_SECONDS]
    assert ADOPTED_SECONDS >= 1800 + 3600
