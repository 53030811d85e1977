"""A headless Chromium that opens pages, and counts what they say and ask for; `tests.conftest` has the fixtures."""

import shutil
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(__file__).parent.parent / "runs" / "screenshots"


class Opened:
    """A page in the browser.

    Attributes:
        page: Playwright's page.
        errors: What its console and scripts complained of.
        requests: What it asked the network for.
    """

    def __init__(self, page):
        self.page, self.errors, self.requests = page, [], []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def go(self, address):
        self.page.goto(address if isinstance(address, str) else address.as_uri())
        self.page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
        return self

    def screenshot(self, name):
        """Keep a picture, for people; git does not see it."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def only_asked_for(self, file):
        return [url for url in self.requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


@pytest.fixture(scope="module")  # no longer: while it runs, no test of the process can have an event loop of its own
def chromium():
    if BROWSER is None:
        pytest.skip("no chromium is installed (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    with chromium.new_context(viewport={"width": 1100, "height": 900}) as context:
        yield Opened(context.new_page())
