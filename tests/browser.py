"""Headless Chromium for tests of pages."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

_PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    not (_PATH and importlib.util.find_spec("playwright")),
    reason="no Chromium, or no playwright: pip install -e '.[browser]'",
)


@contextlib.contextmanager
def chromium() -> Iterator:
    """A playwright `Browser`. Its asyncio loop runs until the end: no other may be started in this thread meanwhile."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
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
    messages, requests, errors = [], [], []
    context = browser.new_context(**options)
    try:
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda message: messages.append((message.type, message.text)))
        page.on("request", lambda request: requests.append(request.url.split("#")[0]))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(own)
        yield page
    finally:
        context.close()
    assert not errors
    assert not [text for kind, text in messages if kind in ("error", "warning")]
    assert {url for url in requests if not url.startswith("data:")} == {own}
