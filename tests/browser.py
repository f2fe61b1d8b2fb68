"""Headless Chromium for tests of pages, which fails a test for whatever a quiet page does not do."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATH = next(filter(None, map(shutil.which, _NAMES)), None)
if not importlib.util.find_spec("playwright"):
    MISSING = "playwright is not installed: pip install -e '.[browser]'"
else:
    MISSING = "" if _PATH else f"no browser: none of {', '.join(_NAMES)} is installed"
needs_browser = pytest.mark.skipif(bool(MISSING), reason=MISSING)

# Milliseconds to wait for what does not come; a failure, so that it may be long.
_TIMEOUT = 60_000


@contextlib.contextmanager
def chromium():
    """A playwright `Browser`, for tests with the mark `needs_browser`.

    Its asyncio loop runs until the end: no other may be started in this thread meanwhile.
    """
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not start for root.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=_PATH, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, path: Path, **options) -> Iterator:
    """The playwright `Page` of a file, in a browser context of its own with these options.

    Afterwards the test fails if the page had an error, wrote an error or a warning to the console, or asked for
    anything but itself and data URIs.
    """
    own = path.resolve().as_uri()
    complaints = []

    def on_console(message) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.type}: {message.text}")

    def on_request(request) -> None:
        if not request.url.startswith("data:") and request.url.split("#")[0] != own:
            complaints.append(f"request: {request.url[:200]}")

    context = browser.new_context(**options)
    try:
        context.set_default_timeout(_TIMEOUT)
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("request", on_request)
        page.goto(own)
        yield page
    finally:
        context.close()
    assert not complaints, complaints
