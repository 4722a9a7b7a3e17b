# SPDX-License-Identifier: Apache-2.0
"""What the browser tests share: finding Chromium and Playwright (exit 77, "skipped", when either is
missing), a page with its complaints collected, and waiting for a fact without a fixed sleep."""
import os
import shutil
import sys
import time

SKIPPED = 77
ROOT = os.environ.get("LIGHTFORCED_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "microsoft-edge")


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


try:
    from playwright.sync_api import Error as PlaywrightError, sync_playwright
except ImportError:
    skip("python has no playwright (pip install playwright)")


def find_browser():
    named = os.environ.get("LIGHTFORCED_BROWSER")
    path = named or next((found for found in map(shutil.which, NAMES) if found), None)
    return path or skip("no Chromium, Chrome or Edge on the PATH (or in LIGHTFORCED_BROWSER)")


class Browser:
    """Chromium without a window. Errors of the pages collect in `errors`; lost connections are not errors."""

    def __init__(self, *arguments):
        self.path = find_browser()
        self.arguments = ["--no-sandbox", *arguments]
        self.errors = []

    def __enter__(self):
        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=self.path, args=self.arguments)
        return self

    def __exit__(self, *_):
        self.browser.close()
        self.playwright.stop()

    def page(self, width=1280, height=720, **options):
        page = self.browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("console", lambda message: self._complaint(message))
        return page

    def _complaint(self, message):
        # Said by the browser itself: refused connections, 4xx and 5xx answers, a header that counts on https only.
        expected = ("WebSocket connection to", "Failed to load resource", "The Cross-Origin-Opener-Policy header has been ignored")
        if message.type == "error" and not message.text.startswith(expected):
            self.errors.append(message.text)


def until(what, fact, seconds=60):
    """Waits until fact() is truthy and returns it. The time limit only ends a test that hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = fact()
        except PlaywrightError as error:  # asked while the page was going elsewhere: ask the next one
            if "context was destroyed" not in str(error):
                raise
            value = None
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for: {what}")
