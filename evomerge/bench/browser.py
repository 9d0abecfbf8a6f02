"""Chromium, as measurements and tests need it. It is the system's; Playwright, which drives it, is optional."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evomerge.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def find_browser() -> str | None:
    """The program that $CHROMIUM names, or else the first of `NAMES` that is installed; None if there is none.

    Raises:
        UsageError: $CHROMIUM names no program.
    """
    asked = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [asked] if asked else NAMES)), None)
    if asked and found is None:
        raise UsageError("no such program", where="CHROMIUM", found=asked)
    return found


@contextmanager
def browsing(program: str) -> Iterator["Browser"]:
    """A headless browser that resolves no name and so reaches this machine only.

    Args:
        program: its path.

    Raises:
        UsageError: Playwright is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UsageError("no driver for browsers", expected="Playwright", remedy="pip install playwright") from error
    arguments = ["--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:  # root has no sandbox
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
