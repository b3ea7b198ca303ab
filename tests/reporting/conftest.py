import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Opened:
    """A page in a browser, and everything that it said or asked for."""

    def __init__(self, tab):
        self.tab, self.said, self.asked = tab, [], []
        tab.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        tab.on("request", lambda request: self.asked.append(request.url))

    @property
    def requests(self):
        """What was asked for beyond the file itself and what it holds."""
        return [url for url in self.asked[1:] if not url.startswith(("data:", "blob:"))]

    def drawn(self, name):
        """Wait for a chart, and return it."""
        chart = self.tab.locator(f"#chart-{name}")
        chart.scroll_into_view_if_needed()
        self.tab.wait_for_selector(f"#chart-{name}[data-drawn]", timeout=20_000)
        return chart

    def all_drawn(self):
        """Wait for every chart that is shown."""
        for name in self.tab.eval_on_selector_all(".chart", "all => all.filter(e => e.offsetParent).map(e => e.id)"):
            self.drawn(name.removeprefix("chart-"))


@pytest.fixture
def ahead():
    """Return how many bytes stand before the first script: all that is shown, which is painted before any runs."""

    def measured(path):
        shown = path.read_text(encoding="utf-8").split("<script")[0]
        assert "</footer>" in shown
        return len(shown.encode())

    return measured


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium here: `make test` installs one where CI is set")
        pytest.skip("there is no Chromium here: install Debian's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture
def show(browser):
    """Open a file: `with show(path) as page`."""

    @contextmanager
    def opened(path, width=1100, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        try:
            page = Opened(context.new_page())
            page.tab.goto(path.as_uri())
            yield page
        finally:
            context.close()

    return opened
