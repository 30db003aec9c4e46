from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headgate import credentials, sealed
from headgate.cli.files import _TEMPLATE
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


def test_what_init_writes_are_the_defaults_as_it_says():
    written = _TEMPLATE.format(model="wine", artifact='"runs:/1/model"', schema="release.schema.json")
    assert parse_release(written) == parse_release(MINIMAL)


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
    ("notify: ['slack://token@channel']", "is a reference"),
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
    (f"runtime: {{memory: {'9' * 5000}Gi}}", "pattern"),
    (f"capture: {{keep: {'9' * 5000}Gi}}", "pattern"),
    ("runtime: {memory: ٣Gi}", "pattern"),
    ("strategy: {max_duration: 3651d}", "a duration is at most 3650d"),
    (f"strategy: {{max_duration: {'9' * 400}d}}", "a duration is at most 3650d"),
    ('runtime: {env: {HEADGATE_SERVER_WORKERS: "3"}}', "HEADGATE_SERVER_WORKERS is '3', and not auto, 1 or 2"),
    ("runtime: {env: {HEADGATE_SERVER_MEMORY: 2GB}}", "not a size such as 512Mi or 2Gi"),
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


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnopqrstuvwxyz")
)


@pytest.mark.parametrize(("text", "line", "says"), [
    (MINIMAL + "x: \0\n", 4, "a character that YAML does not allow"),
    (MINIMAL + 'endpoint: "a\\0b"\n', 4, "neither a NUL"),
    (MINIMAL + 'endpoint: "\\ud800"\n', 4, "half of a surrogate pair"),
    (MINIMAL + "runtime: &all {env: *all}\n", 4, "aliases are not read"),
    (LAUGHS + MINIMAL, 2, "aliases are not read"),
    (MINIMAL + f"x: {'[' * 5000}\n", 4, "nested more than 20 deep"),
    (MINIMAL + "x:\n" + "- 1\n" * 20_000, None, "more than 10000 values"),
    (MINIMAL + f"strategy: {{steps: [{', '.join(f'{n / 100}%' for n in range(1, 5000))}]}}\n", 4, "at most 100 items"),
    (MINIMAL + f"strategy: {{min_requests: {'9' * 5000}}}\n", 4, "xceeds the limit (4300 digits)"),
    (MINIMAL + f"strategy: {{min_requests: {'9' * 400}}}\n", 4, "at most 9223372036854775807"),
    (MINIMAL + "capture: {hours: 2001-99-01}\n", 4, "month must be in 1..12"),
    (MINIMAL + "capture: {hours: !!binary x}\n", 4, "failed to decode base64"),
    (MINIMAL + "capture: {hours: !!python/object:os.system x}\n", 4, "could not determine a constructor"),
    (MINIMAL + "capture: {hours: !!int x}\n", 4, "invalid literal for int"),
    (MINIMAL + "capture: {hours: !!bool x}\n", 4, "cannot be read as bool"),
    (MINIMAL + "? [a, b]\n: c\n", 4, "the name of an entry is a word"),
    (MINIMAL + 'endpoint: "churn\\n"\n', 4, "lower-case letters"),
    (MINIMAL + 'image: {base: "python\\n"}\n', 4, "image"),
    ('model: "wi\\nne"\nartifact: x\ntarget: {kind: local}\n', 1, "string should match"),
    (MINIMAL + 'strategy: {min_duration: "3m\\0"}\n', 4, "neither a NUL"),
    *((MINIMAL + f"runtime: {{env: {{{name}: x}}}}\n", 4, says) for name, says in [
        ("PYTHONSAFEPATH", "does not find its own package"),
        ("LD_PRELOAD", "other code than the image's"), ("PYTHONPATH", "other code than the image's"),
        *((name, "is no name of a variable") for name in ('"A\\nB"', '"A=B"', '""', "1A")),
    ]),
])  # fmt: skip
def test_whatever_is_wrong_with_the_yaml_is_said_at_its_line(text, line, says):
    with pytest.raises(SpecError) as raised:
        parse_release(text)
    found = [problem for problem in raised.value.problems if says in problem.message]
    assert found, raised.value.problems
    assert line is None or found[0].line == line


@pytest.mark.parametrize(("old", "new", "says"), [
    ("runs:/1/model", "http://models.example/wine", "models come from"),
    ("runs:/1/model", "HTTPS://models.example/wine", "models come from"),
    ("runs:/1/model", "ftp://models.example/wine", "models come from"),
    ("runs:/1/model", "s3://ann:planted@bucket/wine", "no user and no password"),
    ("runs:/1/model", "abfss://ann:planted@account/wine", "no user and no password"),
    ("target:", 'capture: {store: "s3://ann:planted@bucket/live"}\ntarget:', "no user and no password"),
])  # fmt: skip
def test_an_address_is_of_a_known_kind_and_has_no_password(old, new, says):
    with pytest.raises(SpecError, match=says) as raised:
        parse_release(MINIMAL.replace(old, new))
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize("address", [
    "runs:/1/model", "models:/wine@champion", "s3://bucket/a@b", "abfss://container@account.dfs.core.windows.net/wine",
    "mlflow-artifacts:/1/model", "file:///models/wine", "models/wine",
])  # fmt: skip
def test_what_models_come_from_is_let_through(address):
    assert parse_release(MINIMAL.replace("runs:/1/model", address)).artifact == address


def test_a_file_that_is_too_large_is_not_even_parsed(tmp_path):
    large = tmp_path / "release.yaml"
    large.write_text(MINIMAL + "# " + "x" * 10**6)
    with pytest.raises(SpecError, match="more than 1000000 bytes"):
        load_release(large)
    with pytest.raises(SpecError, match="more than 1000000 bytes"):
        parse_release(large.read_text())
    with pytest.raises(SpecError, match="more than 1000000 bytes"):
        load_release(Path("/dev/zero"))


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


# Each is put together here, so that no scanner of repositories takes it for one.
SECRETS = {
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----\nplanted",
    "an address with a password": "postgresql://reader:" + "planted@db/x",
    "an AWS access key": "AKIA" + "PLANTED0PLANTED0",
    "an Azure storage key": "AccountName=a;AccountKey=" + "planted0" * 10 + "==",
    "a Google API key": "AIza" + "planted" * 5,
    "a GitHub token": "ghp_" + "planted0" * 5,
    "a GitLab token": "glpat-" + "planted0" * 3,
    "a Hugging Face token": "hf_" + "planted0" * 4,
    "a Slack token": "xoxb-" + "planted0" * 2,
    "a Stripe key": "sk_live_" + "planted0" * 3,
    "an API key of OpenAI's or Anthropic's form": "sk-ant-" + "planted0" * 5,
    "a Databricks token": "dapi" + "0123abcd" * 4,
    "a PyPI token": "pypi-" + "planted0" * 8,
    "an npm token": "npm_" + "planted0" * 4 + "abcd",
    "a signed token (JWT)": "eyJ" + "hbGciOiJI" + ".eyJ" + "zdWIiOiIx" + "." + "planted0" * 3,
}


@pytest.mark.parametrize("kind", SECRETS)
def test_an_environment_with_a_secret_in_it_is_refused_and_not_repeated(kind):
    value = SECRETS[kind]
    found = problems(MINIMAL + f"runtime: {{env: {{MINE: {json.dumps('x ' + value)}}}}}\n")
    assert list(found) == ["runtime.env.MINE"]
    line, column, said = found["runtime.env.MINE"]
    assert (line, column) == (4, 17)
    assert f"holds {kind}" in said
    assert "secrets: {MINE: file:/path}" in said
    assert value not in said
    assert "planted" not in said


def test_every_known_format_has_an_example():
    assert SECRETS.keys() == credentials._SECRETS.keys()


@pytest.mark.parametrize("value", [
    "1", "eu-central-1", "https://features.example/v1?x=a:b@c", "postgresql://reader@db/x", "ann@example.com", "",
    "sha256:" + "0a" * 32, "sk-learn", "host:5432", "hf_model", "2001:db8::1",
])  # fmt: skip
def test_ordinary_settings_are_no_secrets(value):
    spec = parse_release(MINIMAL + f"runtime: {{env: {{MINE: {json.dumps(value)}}}}}\n")
    assert spec.runtime.env == {"MINE": value}


def test_a_sealed_value_of_a_history_is_no_value():
    text = sealed.seal({"MINE": "planted"})["MINE"]
    found = problems(MINIMAL + f"runtime: {{env: {{MINE: {json.dumps(text)}}}}}\n")
    assert "is a sealed value" in found["runtime.env.MINE"][2]


def _places(spec: object, location: tuple = ()):
    """Every place of a release file that holds a text, as data."""
    if isinstance(spec, dict):
        for name, value in spec.items():
            yield from _places(value, (*location, name))
    elif isinstance(spec, list):
        for index, value in enumerate(spec):
            yield from _places(value, (*location, index))
    elif isinstance(spec, str):
        yield location


EVERYTHING = {
    "model": "wine", "artifact": "s3://bucket/model", "endpoint": "wine",
    "target": {
        "kind": "kubernetes", "captures": "s3://bucket/captures", "namespace": "ml", "context": "prod",
        "url": "https://wine.example", "gateway": {"name": "public", "namespace": "edge", "section": "https",
                                                    "hostname": "wine.example"},
        "service_account": "reader", "secret": "wine", "pull_secrets": ["registry"], "node_selector": {"a": "b"},
        "tolerations": [{"key": "gpu", "value": "yes"}], "priority_class": "high", "labels": {"team": "ml"},
        "metrics": [{"type": "External", "external": {"address": "https://metrics.example"}}],
    },
    "runtime": {"memory": "1Gi", "secrets": {"TOKEN": "secret:wine/token"}},
    "image": {"base": "python:3.11", "repository": "registry.example/wine", "allow": ["a.B"]},
    "capture": {"store": "s3://bucket/store", "redact": ["name"], "keep": "1Gi"},
    "gates": {"smoke": {"examples": "examples.json"}, "shadow": {"segment": "region"}},
    "monitor": {"reference": "reference.parquet", "schedule": "*/5 * * * *", "timezone": "UTC",
                "drift": {"ignore": ["x"]},
                "quality": {"answer": "y", "labels": {"database_env": "DB", "query": "select"}}},
    "freeze": [{"start": "0 18 * * FRI", "end": "0 8 * * MON", "reason": "weekend"}],
    "release_when": {"alias": "release-me"}, "notify": ["env:CHAT"],
}  # fmt: skip


def _planted(location: tuple, text: str) -> dict:
    data = json.loads(json.dumps(EVERYTHING))
    part = data
    for step in location[:-1]:
        part = part[step]
    part[location[-1]] = text
    return data


def test_the_file_in_which_addresses_are_planted_is_a_good_one():
    assert parse_release(json.dumps(EVERYTHING)).endpoint == "wine"


@pytest.mark.parametrize("location", list(_places(EVERYTHING)), ids=lambda one: ".".join(map(str, one)))
def test_no_entry_takes_an_address_with_a_user_and_a_password(location):
    data = _planted(location, "s3://ann:planted@bucket/x")
    with pytest.raises(SpecError) as raised:
        parse_release(json.dumps(data))
    assert "planted" not in str(raised.value)
    # As a flow's parameter, which has no file.
    with pytest.raises(ValidationError):
        ReleaseSpec.model_validate(data)


def test_an_address_with_a_password_is_told_once_at_its_place_beside_other_mistakes():
    found = problems(
        "model: wine\nartifact: s3://ann:planted@bucket/x\n"
        "target: {kind: kubernetes, captures: s3://b/c,\n  metrics: [{url: 'https://ann:planted@h'}]}\ntraffic: odd\n"
    )
    assert {field: place[:2] for field, place in found.items()} == {
        "artifact": (2, 1), "target.metrics[0].url": (4, 14), "traffic": (5, 1),
    }  # fmt: skip
    assert all("addresses have no user" in found[field][2] for field in ("artifact", "target.metrics[0].url"))


def test_a_container_is_no_user():
    text = MINIMAL.replace("runs:/1/model", "abfss://models@account.dfs.core.windows.net/x")
    assert parse_release(text).artifact.startswith("abfss://models@")


def test_a_password_in_the_name_of_an_image_is_not_repeated():
    with pytest.raises(SpecError, match="a name of an image") as raised:
        parse_release(MINIMAL + "image: {repository: 'ann:planted@registry.example/wine'}\n")
    assert "planted" not in str(raised.value)
