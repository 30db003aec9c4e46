"""Approvals, as people give them: what a release waits for, and the form of the Prefect UI."""

from __future__ import annotations

from headgate.sign_in import PREFECT_SIGN_IN
from registry import history
from registry.lease import holder
from support.browser import open_browser, picture, sign_in_to_prefect
from support.stack import wait_for

ASKS = "approvals: [{before: shift, expires: 10m}]\n"


def waiting(world, seconds: float = 180.0):
    """What the release in flight asks, once its run is suspended and its process has ended."""
    wait_for(lambda: history.open_approvals(world.journal, world.endpoint), seconds)
    (request,) = history.open_approvals(world.journal, world.endpoint)
    wait_for(
        lambda: world.run_state(request["flow_run"]) == "Suspended" and holder(world.journal, world.endpoint).flow_run
    )
    return request


def answer_in_browser(world, request, decision: str, approver: str, reason: str) -> str:
    """What the form shows, and an answer to it."""
    with open_browser() as page:
        sign_in_to_prefect(page, request["url"], world.stack.env[PREFECT_SIGN_IN])
        page.get_by_role("button", name="Resume").first.click()
        form = page.locator(".p-modal, [role=dialog]").first
        form.get_by_text("Your answer").wait_for()
        picture(page, f"approval-{decision}")
        shown = form.inner_text()
        if decision != "reject":
            form.get_by_role("button", name="reject").focus()
            page.keyboard.press("ArrowDown")
            page.get_by_role("option", name=decision).click()
        boxes = form.get_by_role("textbox")
        boxes.nth(0).fill(approver)
        boxes.nth(1).fill(reason)
        picture(page, f"approval-{decision}-filled")
        _submit(page, form)
        return shown


def _submit(page, form) -> None:
    """As people do where a busy server refuses it: again."""
    from playwright.sync_api import TimeoutError as NotYetError

    for _ in range(4):
        form.get_by_role("button", name="Submit").click()
        try:
            return form.wait_for(state="hidden", timeout=20_000)
        except NotYetError:
            said = page.locator("body").inner_text()
    raise AssertionError(f"the form is still there: {said}")
