"""A real browser: Debian's Chromium, or what HEADGATE_CHROMIUM names, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
def open_browser() -> Iterator[Page]:
    chromium = _NAMED or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium: apt-get install chromium, or set HEADGATE_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=_FLAGS, headless=True, viewport={"width": 1400, "height": 1000}
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


def keep_page(url: str, name: str) -> None:
    """A picture of a page, where somebody wants to see it; else it is not even opened."""
    if SCREENSHOTS:
        with open_browser() as page:
            page.goto(url)
            page.wait_for_load_state("networkidle")
            picture(page, name)
