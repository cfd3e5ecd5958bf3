"""A real browser, headless: the system's Chromium or Chrome, else the one `playwright install chromium` left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def started() -> Iterator[Browser]:
    """Skips where there is none, but fails where CI says that there must be one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and Path(ON_A_MAC).exists():
        found = ON_A_MAC
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        except Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no browser: install chromium, or run playwright install chromium ({error.message[:80]})")
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, width: int = 1440, scheme: str = "light") -> Iterator[tuple[Page, list[str]]]:
    """A page and what went wrong on it so far: console messages, errors, requests for anything but itself."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    try:
        yield page, wrong
    finally:
        page.close()
