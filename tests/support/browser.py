"""A real browser: Debian's Chromium, or what HEADGATE_CHROMIUM names, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

# Read when this is imported, which is before a test's environment is cleaned.
_NAMED = os.environ.get("HEADGATE_CHROMIUM", "")
SCREENSHOTS = os.environ.get("HEADGATE_SCREENSHOTS", "")
"""A folder for pictures of the pages that tests open; docs/ shows some of them."""

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def open_browser(*flags: str, **options: Any) -> Iterator[Page]:
    chromium = _NAMED or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium: apt-get install chromium, or set HEADGATE_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=[*_FLAGS, *flags], headless=True,
            viewport={"width": 1400, "height": 1000}, **options,
        )  # fmt: skip
        context.set_default_timeout(60_000)
        try:
            yield context.pages[0]
        finally:
            context.close()


def picture(page: Page, name: str, *, whole: bool = False) -> None:
    """Keep what the page shows, where somebody wants to see it."""
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=whole)


def sign_in_to_prefect(page: Page, url: str, sign_in: str) -> None:
    """Open a page of Prefect's as a person does who has not been there in this browser: by the first page.

    Without a sign-in the older of Prefect's two UIs shows a flow run's page as not found, and does not ask.
    """
    from playwright.sync_api import TimeoutError as NotYetError

    parts = urlsplit(url)
    first, field = f"{parts.scheme}://{parts.netloc}/", page.locator("input[type=password]").first
    # On a busy machine the page may have given up a question that it asks the server; a person loads it again.
    for _ in range(2):
        page.goto(first)
        with suppress(NotYetError):
            field.wait_for(timeout=20_000)
        if field.is_visible():
            break
    else:
        page.goto(first)
    field.fill(sign_in)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda now: "/login" not in now)
    page.goto(url)


def keep_page(url: str, name: str, sign_in: str) -> None:
    """A picture of a page of Prefect's, where somebody wants to see it; else it is not even opened."""
    if SCREENSHOTS:
        with open_browser() as page:
            sign_in_to_prefect(page, url, sign_in)
            page.wait_for_load_state("networkidle")
            picture(page, name)
