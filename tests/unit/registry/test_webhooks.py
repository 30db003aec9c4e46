from __future__ import annotations

import pytest
from support.signing import signed
from support.small_server import answering

from headgate.errors import RefusedError, RegistryError
from registry.webhooks import _KEPT_SECONDS, claim, ensure_webhook, give_up, verify

BODY = b'{"entity": "model_version_alias"}'


def test_a_delivery_is_known_by_its_signature():
    headers = signed(BODY, "secret")
    assert verify(headers, BODY, "secret") == headers["x-mlflow-delivery-id"]


@pytest.mark.parametrize(("change", "says"), [
    ({"x-mlflow-signature": ""}, "has the headers"),
    ({"x-mlflow-signature": "v1,bm9uc2Vuc2U="}, "does not match"),
    ({"x-mlflow-signature": "v1,ünïcode"}, "does not match"),
    ({"x-mlflow-delivery-id": "another"}, "does not match"),
    ({"x-mlflow-timestamp": "12"}, "does not match"),
])  # fmt: skip
def test_one_that_was_changed_is_refused(change, says):
    with pytest.raises(RefusedError, match=says):
        verify({**signed(BODY, "secret"), **change}, BODY, "secret")


@pytest.mark.parametrize("at", [0, 1e12])
def test_one_of_another_time_is_refused(at):
    with pytest.raises(RefusedError, match="at most 300 s may pass"):
        verify(signed(BODY, "secret", at=at), BODY, "secret")


def test_a_time_that_is_no_number_is_refused():
    headers = signed(BODY, "secret")
    import base64
    import hashlib
    import hmac

    content = f"{headers['x-mlflow-delivery-id']}.soon.".encode() + BODY
    signature = base64.b64encode(hmac.new(b"secret", content, hashlib.sha256).digest()).decode()
    with pytest.raises(RefusedError, match="is the seconds since 1970"):
        verify({**headers, "x-mlflow-timestamp": "soon", "x-mlflow-signature": f"v1,{signature}"}, BODY, "secret")


def test_a_delivery_is_taken_once_unless_it_is_given_up(journal):
    assert claim(journal, "a")
    assert not claim(journal, "a")
    assert claim(journal, "b")
    give_up(journal, "a")
    assert claim(journal, "a")
    assert claim(journal, "x" * 1000)
    assert not claim(journal, "x" * 1000)


def test_what_goes_on_coming_is_remembered_for_as_long(journal, waitless):
    assert claim(journal, "a")
    for _ in range(4):
        waitless.skip(_KEPT_SECONDS - 1)
        assert not claim(journal, "a")
    waitless.skip(_KEPT_SECONDS + 1)
    assert claim(journal, "b")
    assert claim(journal, "a")


@pytest.mark.parametrize(("said", "fix"), [
    ("Invalid webhook URL scheme: 'http'. Allowed schemes are: https.", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http"),
    ("Webhook URL must not resolve to a non-public IP address.", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"),
    ("Something else.", "see the log of the MLflow server"),
])  # fmt: skip
def test_a_webhook_that_mlflow_refuses_names_the_setting_that_allows_it(said, fix):
    with (
        answering(lambda _: (400, said.encode())) as url,
        pytest.raises(RegistryError, match="MLflow refused the webhook") as raised,
    ):
        ensure_webhook(url, "http://127.0.0.1:1/mlflow", "secret")
    assert fix in raised.value.fix
