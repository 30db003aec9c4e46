"""One release, a bad one and a rollback on a real cloud, and nothing left.

    HEADGATE_E2E=sagemaker HEADGATE_E2E_TARGET='{"kind": "sagemaker", "role": "arn:…", "captures": "s3://…"}' \
    make test ARGS=tests/e2e/test_real_clouds.py

Takes about an hour, and runs at most three machines of the target's type. Endpoints are named after the time: what a
killed run left is removed by the next one, from two hours on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
import warnings

import pytest
from support.stack import prefect_settings

from deploy_targets import open_target
from headgate.errors import RejectedError
from headgate.phases import Outcome
from headgate.records import Payload
from headgate.release_file import parse_release
from headgate.target_settings import settings_of

NAME = "headgate-e2e"
OLD_SECONDS = 2 * 3600
ASK = Payload(body=b'{"dataframe_records":[{"x":1.0}]}')
FILE = """\
model: {name}
artifact: {artifact}
target: {target}
gates: {{shadow: {{min_requests: 100, max_duration: 30m, max_disagreement: 20%}}}}
strategy: {{steps: [20%, 50%], min_requests: 200, min_duration: 3m, max_duration: 30m}}
judge: {{error_rate: {{margin_points: 20%}}, latency: {{quantiles: [0.5], floor: 1s}}}}
"""


@pytest.fixture
def target():
    named = json.loads(os.environ["HEADGATE_E2E_TARGET"])
    assert named["kind"] == os.environ["HEADGATE_E2E"]
    return open_target(settings_of(named["kind"]).model_validate(named))


@pytest.fixture
def endpoint(target):
    for left in target.endpoints():
        began = left.removeprefix(f"{NAME}-")
        if left.startswith(NAME) and began.isdigit() and int(began) < time.time() - OLD_SECONDS:
            target.delete(left)
    name = f"{NAME}-{time.time():.0f}"
    yield name
    target.delete(name)
    assert target.observe(name) is None
    assert name not in target.endpoints()


@contextlib.contextmanager
def clients(target, endpoint):
    """Someone who asks ten times a second; every answer has to be a good one."""
    stop, answers = threading.Event(), []

    def ask():
        while not stop.wait(0.1):
            answers.append(target.invoke(endpoint, ASK).status)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {200}


@pytest.mark.timeout(2 * 3600)
def test_a_good_version_is_promoted_a_bad_one_is_not_and_a_rollback_goes_back(
    stack, monkeypatch, models, target, endpoint
):
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)
    from flows.release import release
    from flows.rollback import rollback

    def text(does):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            artifact = models("pyfunc", does=does)
        return FILE.format(name=endpoint, artifact=artifact, target=os.environ["HEADGATE_E2E_TARGET"])

    with prefect_settings(stack.env):
        first = asyncio.run(release(parse_release(text("double"))))
        assert first.outcome is Outcome.PROMOTED
        with clients(target, endpoint):
            assert asyncio.run(release(parse_release(text("negative")))).outcome is Outcome.PROMOTED
            with pytest.raises(RejectedError):
                asyncio.run(release(parse_release(text("triple"))))
            assert asyncio.run(rollback(endpoint, "to see it")).champion == first.version
