"""The forms of the Prefect UI that start a flow: short, and in order where PostgreSQL has ordered their fields."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from conftest import open_world
from prefect.utilities.callables import parameter_schema
from support.browser import open_browser, picture
from support.journals import create_databases
from support.own_servers import own_servers
from support.stack import wait_for

from flows.abort import abort
from flows.monitor import monitor
from flows.promote import promote
from flows.release import release
from flows.rollback import rollback

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

# Prefect has two UIs. At /v2 is the one that it opens by itself; the other one has more space between its fields.
HIGHEST = {"/v2": 1200, "": 1210}
FLOWS = [release, monitor, rollback, promote, abort]

# Of the page, or of the part of it that scrolls.
_HEIGHT = """() => Math.max(...[...document.querySelectorAll("*")]
    .filter(one => one === document.documentElement || /auto|scroll/.test(getComputedStyle(one).overflowY))
    .map(one => one.scrollHeight))"""


@dataclass
class Form:
    """The page that a deployment's *Custom run* opens."""

    page: Page
    deployment: dict[str, Any]

    @property
    def height(self) -> int:
        return int(self.page.evaluate(_HEIGHT))

    def top(self, shown: Locator) -> float:
        box = shown.bounding_box()
        assert box is not None
        return box["y"]

    def label(self, name: str) -> Locator:
        """A field's name, as required ones and others have it."""
        return self.page.locator("label, .p-label__text").get_by_text(name, exact=True).or_(
            self.page.locator("label, .p-label__text").get_by_text(f"{name} (Optional)", exact=True)
        ).first  # fmt: skip

    def keep(self, name: str) -> None:
        """Keep a picture of the whole form, where somebody wants to see it."""
        self.page.set_viewport_size({"width": 1400, "height": self.height})
        picture(self.page, name)

    def submit(self) -> dict[str, Any]:
        """Start the run; gives what the server has made of it."""
        made = f"**/deployments/{self.deployment['id']}/create_flow_run"
        with self.page.expect_response(made) as answer:
            self.page.get_by_role("button", name="Submit").click()
        assert answer.value.ok, answer.value.text()
        return answer.value.json()


@pytest.fixture(scope="module")
def servers(stack, postgres, tmp_path_factory):
    """Prefect and the journal on PostgreSQL, with a worker of their own."""
    create_databases(postgres, "prefect_of_forms", "journal_of_forms")
    prefect = f"{postgres.replace('+psycopg', '+asyncpg')}/prefect_of_forms"
    with own_servers(stack, tmp_path_factory.mktemp("forms"), prefect, f"{postgres}/journal_of_forms") as running:
        yield running


@pytest.fixture
def page():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def open_form(servers, page):
    def opened(flow: str, ui: str) -> Form:
        api = servers.env["PREFECT_API_URL"]
        deployment = servers.prefect.get(f"/deployments/name/{flow}/local").json()
        page.goto(f"{api.removesuffix('/api')}{ui}/deployments/deployment/{deployment['id']}")
        page.get_by_role("button", name="Run", exact=True).first.click()
        page.get_by_text("Custom run").click()
        page.get_by_text("Additional Options").wait_for()
        page.locator("textarea").first.wait_for()
        return Form(page, deployment)

    return opened


@pytest.mark.parametrize("ui", HIGHEST)
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_form_is_short_and_says_what_each_field_means_in_the_order_of_the_flow(open_form, flow, ui):
    form = open_form(flow.name, ui)
    stored = form.deployment["parameter_openapi_schema"]["properties"]
    # What the order of the form must not depend on.
    assert list(stored) == sorted(stored, key=lambda name: (len(name), name))
    fields = parameter_schema(flow).properties
    tops = [form.top(form.label(name)) for name in fields]
    assert tops == sorted(tops)
    for field in fields.values():
        said = " ".join(field["description"].split())
        assert form.page.get_by_text(said).is_visible(), said
    assert form.height <= HIGHEST[ui]
    form.keep(f"form-{flow.name}{ui.replace('/', '-')}")


@pytest.mark.parametrize("how", ["path", "text"])
@pytest.mark.parametrize("ui", HIGHEST)
def test_a_release_is_started_by_its_form(servers, open_form, monkeypatch, models, tmp_path, ui, how):
    with open_world(servers, monkeypatch) as world:
        text = world.text(models("pyfunc", does="double"))
        file = tmp_path / "release.yaml"
        file.write_text(text)
        given = {"path": str(file), "text": text}[how]
        form = open_form("release", ui)
        spec = form.page.locator("textarea").first
        # It is shown at once, above all others.
        assert form.top(form.label("spec")) < form.top(spec) < form.top(form.label("release_id"))
        spec.focus()
        form.page.keyboard.insert_text(given)
        form.keep(f"form-release{ui.replace('/', '-')}-{how}")
        made = form.submit()
        assert made["parameters"]["spec"] == given
        wait_for(lambda: world.run_state(made["id"]) in {"Completed", "Failed", "Crashed"}, 240)
        assert world.run_state(made["id"]) == "Completed"
        world.assert_only(1)
        named = servers.prefect.get(f"/flow_runs/{made['id']}").json()["name"]
        assert named == f"release {'release' if how == 'path' else world.endpoint}"


@pytest.mark.expects_errors("stratgy: Extra inputs|'stratgy'")
def test_programs_may_give_the_content_and_what_is_wrong_with_it_is_said(servers, monkeypatch, models):
    prefect = str(Path(sys.executable).parent / "prefect")

    def run(content: dict[str, Any]) -> dict[str, Any]:
        command = [prefect, "deployment", "run", "release/local", "--watch", "--param", f"spec={json.dumps(content)}"]
        subprocess.run(command, env={**os.environ, **servers.env}, capture_output=True, check=False)
        ask = {"flows": {"name": {"any_": ["release"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        (made,) = servers.prefect.post("/flow_runs/filter", json=ask).json()
        assert made["parameters"]["spec"] == content
        return made["state"]

    with open_world(servers, monkeypatch) as world:
        content = yaml.safe_load(world.text(models("pyfunc", does="double")))
        assert run(content)["name"] == "Completed"
        world.assert_only(1)
        wrong = run({**content, "stratgy": 1})
        assert wrong["name"] == "Failed"
        assert "stratgy" in wrong["message"]


@pytest.mark.parametrize("ui", HIGHEST)
def test_a_form_without_a_release_file_is_refused_at_the_field(open_form, ui):
    form = open_form("release", ui)
    form.page.get_by_role("button", name="Submit").click()
    said = form.page.get_by_text("'spec' is a required property", exact=True)
    said.first.wait_for()
    assert form.top(said.first) < form.top(form.label("release_id"))
