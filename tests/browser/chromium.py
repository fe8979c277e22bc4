"""The distribution's Chromium, without a network, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

ARGUMENTS = [
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # No name is found but this host's: what needs a network fails.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SIZE: ViewportSize = {"width": 1200, "height": 2400}


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. Missing, it fails with the command that installs it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("Chromium is missing; run: apt-get install chromium fonts-dejavu-core")
    # Chromium's sandbox does not work for root.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, *sandbox])
        yield browser
        browser.close()


@contextmanager
def watched_page(browser: Browser, size: ViewportSize = SIZE) -> Iterator[Page]:
    """A page that fails the test on any error in it, and on any request to another host."""
    context = browser.new_context(viewport=size)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"error in the page: {error}"))
    page.on("request", lambda request: errors.extend(_foreign(request.url)))
    page.set_default_timeout(30_000)
    yield page
    context.close()
    assert errors == []


def _foreign(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme in {"blob", "data"} or parts.hostname == "127.0.0.1":
        return []
    return [f"request to another host: {url}"]
