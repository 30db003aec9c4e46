"""What a release file may not ask of a target: said by `plan`, before anything is made."""

from __future__ import annotations

import pytest

from deploy_targets import open_target, unsupported_problems
from headgate.home import Home
from headgate.release_file import parse_release
from headgate.stack.ports import Ports

LOCAL, VERTEX = "{kind: local}", "{kind: vertex, captures: 'bq://a-project.captures.live'}"
AZURE = "{kind: azure-ml, subscription: 0b1f6471-1bf0-4dda-aec3-cb9272f09590, group: ml, workspace: main}"

SAGEMAKER = "{{kind: sagemaker, role: 'arn:aws:iam::123456789012:role/e', captures: 's3://captures'{}}}"


@pytest.fixture(autouse=True)
def started(tmp_path, monkeypatch):
    """The local target is one of a stack that was started once."""
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    Ports.choose(Home.from_env())


def problems(target: str, more: str) -> dict[str, str]:
    spec = parse_release(f"model: wine\nartifact: runs:/1/model\ntarget: {target}\n{more}\n")
    return {one.subject: one.problem for one in unsupported_problems(open_target(spec.target), spec)}


@pytest.mark.parametrize(("steps", "wrong"), [("[1%, 50%]", ""), ("[0.5%, 50%]", "0.5%"), ("[1%, 12.25%]", "12.25%")])
def test_steps_are_multiples_of_what_the_platform_splits_by(steps, wrong):
    said = problems(VERTEX, f"strategy: {{steps: {steps}}}").get("strategy.steps", "")
    assert said == (f"the vertex target takes multiples of 1%, not {wrong}" if wrong else "")
    assert "strategy.steps" not in problems(LOCAL, f"strategy: {{steps: {steps}}}")


@pytest.mark.parametrize(("percent", "wrong"), [("20%", ""), ("100%", ""), ("0.5%", "0.5%")])
def test_copies_are_in_the_same_steps_where_the_platform_makes_them(percent, wrong):
    gate = f"gates: {{shadow: {{percent: {percent}}}}}"
    said = problems(AZURE, gate).get("gates.shadow.percent", "")
    assert said == (f"the azure-ml target takes multiples of 1%, not {wrong}" if wrong else "")
    assert not {"gates.shadow.percent"} & {*problems(LOCAL, gate), *problems(VERTEX, gate)}


@pytest.mark.parametrize("target", ["local", "vertex", "azure", "sagemaker"])
def test_a_platform_that_starts_no_machine_when_somebody_asks_says_so(target):
    known = {"local": LOCAL, "vertex": VERTEX, "azure": AZURE, "sagemaker": SAGEMAKER.format("")}
    asked = "runtime.replicas.min: 0"
    assert "set replicas.min to 1" in problems(known[target], "runtime: {replicas: {min: 0}}")[asked]
    assert asked not in problems(known[target], "runtime: {replicas: {min: 1}}")


def test_copies_and_as_many_again_are_within_the_pods_that_there_may_be():
    def said(more, surge=1):
        return problems(f"{{kind: kubernetes, captures: 's3://b/live', surge: {surge}}}", more)

    four = "runtime: {replicas: {min: 4, max: 4}}\n"
    assert "needs 4 pods" in said(four)["gates.shadow.percent"]
    assert "gates.shadow.percent" not in said(four + "gates: {shadow: {percent: 25%}}")
    assert not {"gates.shadow.percent", "strategy.kind"} & said(four + "gates: {shadow: off}").keys()
    blue_green = four + "gates: {shadow: off}\nstrategy: {kind: blue-green}"
    assert "target.surge allows 1" in said(blue_green)["strategy.kind"]
    assert "strategy.kind" not in said(blue_green, surge=4)


def test_percent_of_memory_needs_a_memory():
    target = "{kind: kubernetes, captures: 's3://b/live', memory_target: 80}"
    assert "runtime.memory says nothing" in problems(target, "")["target.memory_target"]
    assert "target.memory_target" not in problems(target, "runtime: {memory: 1Gi}")


def test_alarms_are_those_of_a_platform_that_has_some_and_are_named():
    asked = "rollback: {on: [alarms]}"
    assert "Alertmanager" in problems(LOCAL, asked)["rollback.on: alarms"]
    assert "are not read" in problems(VERTEX, asked)["rollback.on: alarms"]
    assert "names none" in problems(SAGEMAKER.format(""), asked)["target.alarms"]
    assert not problems(SAGEMAKER.format(", alarms: [too-many-failures]"), asked)


def test_what_sagemaker_shifts_itself_is_not_split_by_us():
    guarded = SAGEMAKER.format(", alarms: [one], native_guardrails: {kind: linear, size: 20%}")
    assert "blue-green" in problems(guarded, "")["strategy.steps"]
    assert not problems(guarded, "strategy: {kind: blue-green}")
    assert not problems(SAGEMAKER.format(""), "")


def test_sagemaker_scales_to_zero_where_it_splits_nothing_and_knows_what_a_copy_needs():
    nobody, green = "replicas: {min: 0, max: 2}", "strategy: {kind: blue-green}\n"
    plain, components = SAGEMAKER.format(""), SAGEMAKER.format(", inference_components: {}")
    assert "target.inference_components" in problems(plain, f"runtime: {{{nobody}}}")["runtime.replicas.min: 0"]
    assert problems(components, f"runtime: {{{nobody}}}").keys() == {"strategy.steps", "runtime.memory"}
    asked = f"{green}runtime: {{{nobody}, memory: 2Gi, cpu: 1, gpu: 1}}\n"
    assert not problems(components, asked)
    small = problems(components, f"{green}runtime: {{memory: 64Mi, cpu: 0.1}}")
    assert "128Mi or more; it says 64Mi" in small["runtime.memory"]
    assert "0.25 of a core or more" in small["runtime.cpu"]
    redacted = problems(components, f"{asked}capture: {{redact: [x]}}")
    assert redacted.keys() == {"gates.shadow", "strategy.kind"}, "what is asked again has to be whole"


def test_steps_that_are_not_taken_need_not_fit():
    found = problems(VERTEX, "strategy: {kind: blue-green, steps: [0.5%, 50%]}")
    assert "strategy.steps" not in found
    assert "does not copy requests" in found["strategy.kind"]


def test_what_is_asked_again_cannot_be_redacted():
    assert "asks again what its log has" in problems(VERTEX, "capture: {redact: [x]}")["gates.shadow"]
    assert not problems(LOCAL, "capture: {redact: [x]}")


@pytest.mark.parametrize(("target", "reads"), [
    (VERTEX, "Secret Manager"), (AZURE, "Key Vault"), (SAGEMAKER.format(""), "Secrets Manager"),
    (SAGEMAKER.format(", inference_components: {}"), "Secrets Manager"),
])  # fmt: skip
def test_a_platform_that_would_show_secrets_takes_none(target, reads):
    asked = problems(target, "runtime: {secrets: {TOKEN: 'env:TOKEN'}}")["runtime.secrets"]
    assert "would show their values to everybody" in asked
    assert reads in asked
    assert "runtime.secrets" not in problems(target, "runtime: {env: {TOKEN: '1'}}")


def test_each_machine_takes_the_secrets_that_it_can_read(tmp_path):
    file = tmp_path / "token"
    file.write_text("planted")
    cluster = "{kind: kubernetes, captures: 's3://b/live'}"

    def said(target: str, reference: str) -> str:
        return problems(target, f"runtime: {{secrets: {{TOKEN: '{reference}'}}}}").get("runtime.secrets.TOKEN", "")

    for target in (LOCAL, "{kind: docker}"):
        assert said(target, f"file:{file}") == said(target, "block:secret/token") == ""
        assert "no reference that a server of this machine can be given" in said(target, "secret:wine/token")
        assert "cannot be read" in said(target, "file:/nowhere")
        # supervisord, in whose environment it would be, is not up, and preflight says so.
        assert said(target, "env:TOKEN") == ""
    assert said(cluster, "secret:wine/token") == ""
    for reference in (f"file:{file}", "block:secret/token", "env:TOKEN"):
        assert said(cluster, reference) == f"{reference} is a secret of another machine, and pods read those of default"
