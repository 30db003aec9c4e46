from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import SpecError
from headgate.release_file import json_schema, load_release, parse_release
from headgate.spec import ReleaseSpec
from headgate.units import format_duration, format_percent, parse_duration, parse_percent

MINIMAL = "model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\n"


def problems(text: str) -> dict[str, tuple[int, int, str]]:
    with pytest.raises(SpecError) as raised:
        parse_release(text)
    return {p.field: (p.line, p.column, f"{p.message}; {p.hint}") for p in raised.value.problems}


def test_everything_but_three_entries_has_a_default():
    spec = parse_release(MINIMAL)
    assert spec.endpoint == "wine"
    assert spec.strategy.shares == (500, 2500, 5000)
    assert spec.judge.false_rollback == 0.01
    assert spec.gates.shadow is not None
    assert spec.monitor is None


def test_a_file_round_trips_through_json():
    text = (
        MINIMAL + "strategy: {steps: [0.5%, 12.5%], min_duration: 90s}\ngates: {shadow: off}\nmonitor: {window: 3d}\n"
    )
    spec = parse_release(text)
    assert ReleaseSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.model_dump(mode="json")["strategy"]["steps"] == ["0.5%", "12.5%"]


def test_five_mistakes_are_five_messages_each_at_its_place():
    found = problems(
        "model: wine\n"
        "artifakt: runs:/1/model\n"
        "target: {kind: lokal}\n"
        "strategy:\n"
        "  steps: [5%, 5%]\n"
        "  min_requests: -1\n"
        "gates: {shadow: {percent: 5}}\n"
    )
    assert found == {
        "artifact": (1, 1, "is required; "),
        "artifakt": (2, 1, "no such entry; did you mean `artifact`?"),
        "target.kind": (
            3,
            10,
            "no such target; installed: azure-ml, docker, kubernetes, local, sagemaker, vertex; did you mean `local`?",
        ),
        "strategy.steps": (5, 3, "steps rise from above 0% to below 100%, such as [5%, 25%, 50%]; "),
        "strategy.min_requests": (6, 3, "input should be greater than or equal to 0; "),
        "gates.shadow.percent": (7, 18, "a percentage is a number with its sign: 5% or 0.5%; "),
    }


@pytest.mark.parametrize(("entry", "says"), [
    ("gates: {evaluate: {}}", "not built yet"),
    ("approvals: [{before: lunch}]", "'deploy', 'shift' or 'promote'"),
    ("approvals: [{before: shift}, {before: shift}]", "at most one approval"),
    ("approvals: [{before: shift, expires: 0s}]", "at least 1s"),
    ("notify: ['slack://token@channel']", "pattern"),
    ("freeze: [{start: 'at six', end: '0 8 * * MON'}]", "a cron expression of five fields"),
    ("freeze: [{start: '0 18 * * FRI', end: '0 8 * * MON', timezone: Mars/Base}]", "a time zone's name"),
    ("release_when: {}", "either alias or tag"),
    ("release_when: {alias: a, tag: b}", "either alias or tag"),
    ("release_when: {alias: champion}", "choose another alias"),
    ("when_busy: panic", "'refuse' or 'queue'"),
    ("image: {base: 'Not An Image'}", "a name of an image"),
    ("image: {repository: 'registry.example/wine:v1'}", "without a tag"),
    ("image: {scan: maybe}", "'block', 'warn' or 'off'"),
    ("judge: {latency: {tolerance: 30%}}", "at most margin"),
    ("monitor: {schedule: x}", "a cron expression of five fields"),
    ("endpoint: Wine_Endpoint", "lower-case"),
    ("strategy: {min_duration: 2h, max_duration: 1h}", "at least min_duration"),
    ("monitor: {trigger: {violations: 3, of: 2}}", "at most of"),
    ("runtime: {replicas: {min: 3, max: 1}}", "at least min"),
    ("runtime: {memory: lots}", "pattern"),
    ("judge: {false_rollback: 0%}", "between 0% and 50%"),
    ("model: twice", "given twice"),
    ("capture: {sample: 0%}", "greater than 0"),
    ("capture: {keep: lots}", "pattern"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_a_reason(entry, says):
    assert any(says in message for _, _, message in problems(MINIMAL + entry + "\n").values())


def test_a_target_that_is_not_built_yet_is_refused():
    found = problems(MINIMAL.replace("local", "cloud-run"))
    assert "not built yet" in found["target.kind"][2]


SAGEMAKER = (
    "model: wine\nartifact: runs:/1/model\n"
    "target:\n  kind: sagemaker\n  role: arn:aws:iam::123456789012:role/r\n  captures: s3://bucket\n"
)


def test_each_kind_of_target_has_entries_of_its_own():
    spec = parse_release(SAGEMAKER)
    assert spec.target.model_dump()["instance"] == "ml.m5.large"
    assert type(spec).model_validate(spec.model_dump(mode="json")) == spec, "as the history keeps it"
    assert problems(SAGEMAKER + "  instanze: ml.g5.xlarge\n") == {
        "target.instanze": (7, 3, "no such entry; did you mean `instance`?")
    }
    assert problems(SAGEMAKER.replace("  captures: s3://bucket\n", "")) == {
        "target.captures": (3, 1, "is required; ")
    }  # fmt: skip
    assert problems(SAGEMAKER.replace("sagemaker", "local")).keys() == {"target.role", "target.captures"}
    # What stands beside a kind that nobody knows cannot be judged.
    assert problems(SAGEMAKER.replace("sagemaker", "sagemakr")).keys() == {"target.kind"}


@pytest.mark.parametrize("text", ["", "- a list", "just text", "model: [unclosed", "a: b: c"])
def test_what_is_no_file_is_refused(text):
    with pytest.raises(SpecError):
        parse_release(text)


def test_a_missing_file_names_itself(tmp_path):
    with pytest.raises(SpecError, match=r"nothing\.yaml: No such file"):
        load_release(tmp_path / "nothing.yaml")


def test_relative_paths_are_taken_from_the_files_folder(tmp_path):
    (tmp_path / "release.yaml").write_text(
        MINIMAL.replace("runs:/1/model", "models/v1") + "monitor: {reference: train.parquet}\n"
    )
    spec = load_release(tmp_path / "release.yaml")
    assert Path(spec.artifact) == tmp_path / "models" / "v1"
    assert spec.monitor is not None
    assert Path(spec.monitor.reference) == tmp_path / "train.parquet"


def test_the_schema_accepts_what_the_parser_accepts():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = MINIMAL + "gates: {shadow: off}\nstrategy: {steps: [5%], min_duration: 90s}\n"
    jsonschema.validate(yaml.safe_load(good), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(good), "gates": {"evaluate": {}}}, schema)
    assert "evaluate" not in json.dumps(schema)


@given(st.integers(0, 10**6).map(lambda tenths: tenths / 10))
def test_durations_round_trip(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(0, 10_000))
def test_percentages_round_trip_in_basis_points(points):
    assert round(parse_percent(format_percent(points / 10_000)) * 10_000) == points


def test_the_release_file_of_the_readme_shows_every_default():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)[1].replace("<run_id>", "1")
    shown = parse_release(example).model_dump()
    defaults = parse_release("model: churn\nartifact: runs:/1/model\ntarget: {kind: local}\nmonitor: {}\n").model_dump()
    # Its comment says that the default is none.
    shown["runtime"]["env"] = {}
    assert shown == defaults
    assert set(yaml.safe_load(example)) >= set(defaults), "every entry is shown"
