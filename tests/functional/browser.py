"""A real Chromium for the tests of the admin UI, and what can be asked about a page in it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.conftest import eventually
from tests.functional.server import Server

AXE = Path(__file__).parent.parent / "vendor" / "axe-core@4.14.1" / "axe.min.js"
# What axe looks at: WCAG 2.2 AA and what else is good practice; or only what depends on colours.
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
# Swagger UI's own elements, as others published them: its colours are below the contrast that axe asks for, its select
# has no name. What is said there is also in /openapi.json, and the page says so.
FOREIGN = "#reference"
# Says on the console what the page's policy forbade, whoever hears it there.
REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} forbids ${event.blockedURI || event.sample}`);
});
"""
# On a machine where others work too; nothing waits for it that comes sooner.
MOST_MILLISECONDS = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium; without it tests are skipped, and where CI=true they fail."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is missing; scripts/test_packages.sh installs it or says how."
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    expect.set_options(timeout=MOST_MILLISECONDS)
    # Chromium's sandbox does not start as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program, args=arguments) as made:
        yield made


@contextmanager
def window(browser: Browser, server: Server, **options: Any) -> Iterator[BrowserContext]:
    """Open a window on a server with no cookies in it."""
    with browser.new_context(base_url=server.url, **options) as context:
        context.set_default_timeout(MOST_MILLISECONDS)
        yield context


def sign_in(page: Page, link: str) -> None:
    """Come in by a sign-in link."""
    page.goto(link)
    page.get_by_role("button", name="Sign in as").click()
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()


@contextmanager
def worker_held(server: Server) -> Iterator[None]:
    """Hold the process that works on uploads and jobs: what begins meanwhile stays as it began."""
    assert server.process is not None
    pids = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    (worker,) = (int(pid) for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0worker\0"))
    # Not in the middle of a transaction: nobody else could write.
    with server.locked_database():
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: ") T " in Path(f"/proc/{worker}/stat").read_text())
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


class Console:
    """What a page says on its console, what the policy forbade there, and errors that nobody caught."""

    def __init__(self, page: Page) -> None:
        """Listen from now on."""
        self._said: list[str] = []
        page.add_init_script(REPORT_VIOLATIONS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self._said.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        # Chromium tells of every answer above 399, also where the page's own address gave it and the test wants it.
        of_page = message.page is not None and message.location["url"] == message.page.url
        if not (
            of_page and message.text.startswith("Failed to load resource: the server responded with a status of 4")
        ):
            self._said.append(message.text)

    def take(self) -> list[str]:
        """Give what was said since the last time."""
        said, self._said = self._said, []
        return said


def violations(page: Page) -> list[str]:
    """Ask axe what stands in people's way on a page as it is now: a sentence for each element."""
    # What a test evaluates is not bound by the page's policy: the page that is asked is the one that people get.
    if not page.evaluate("Boolean(globalThis.axe)"):
        page.evaluate(AXE.read_text())
    ask = """([rules, foreign]) => axe.run({exclude: [foreign]}, {runOnly: rules, resultTypes: ["violations"]})
      .then((found) => found.violations)"""
    found = page.evaluate(ask, [RULES, FOREIGN])
    return [f"{rule['id']}: {rule['help']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
