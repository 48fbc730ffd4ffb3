"""The page of latency and traffic in a real browser: drawings that are looked at closely, and without scripts too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.functional.browser import Console, chromium, sign_in, violations, window
from tests.functional.server import Server
from tests.functional.test_admin_pages import FIND_SIDEWAYS
from tests.test_predictions import record
from webapp.config import load, prepare
from webapp.db import Database, now
from webapp.predictions import log

HEIGHT = 900
COLOURS = """() => {
  const drawn = document.querySelector(".u-wrap canvas");
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [drawn.width, drawn.height];
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(drawn, 0, 0);
  const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
  const found = new Set();
  for (let at = 0; at < pixels.length; at += 4)
    if (pixels[at + 3] === 255) found.add(pixels.slice(at, at + 3).join(" "));
  return [...found];
}"""
BLUE = {"light": "0 104 168", "dark": "93 179 236"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which two models answered for some hours, and one was activated meanwhile."""
    made = Server(tmp_path_factory.mktemp("busy") / "data", workers=1)
    made.demo()
    _log(made)
    try:
        yield made.start()
    finally:
        made.stop()


def _log(server: Server) -> None:
    database = Database(prepare(load(server.environment)).sqlalchemy_url)
    begins = now() - timedelta(hours=20)
    made = [
        record(
            number,
            at=(begins + timedelta(minutes=10 * number)).timestamp(),
            model="credit-risk" if number % 3 else "prices",
            version=1,
            latency_seconds=0.001 * (1 + number % 7),
        )
        for number in range(100)
    ]
    with database.transaction() as session:
        log.insert(session, log.Piece("another-host", "a-segment", made, 1))
    database.engine.dispose()


@contextmanager
def seat(browser: Browser, server: Server, **options: object) -> Iterator[tuple[Page, Console]]:
    """Sign somebody in."""
    name = f"v{len(server.rows('SELECT name FROM users'))}"
    link = server.cli("users", "create", name, "--role", "viewer")["link"]
    with window(browser, server, reduced_motion="reduce", **options) as made:
        page = made.new_page()
        console = Console(page)
        sign_in(page, link)
        yield page, console


def test_what_is_looked_at_closely_is_chosen_by_buttons_and_by_dragging(browser: Browser, busy: Server) -> None:
    with seat(browser, busy) as (page, console):
        page.goto("/admin/latency")
        expect(page.locator(".u-wrap canvas")).to_have_count(2)
        shown = page.locator("[data-shown]")
        expect(shown).to_have_text("")
        page.get_by_role("button", name="Closer").click()
        expect(shown).to_contain_text("Shown: ")
        first = shown.inner_text()
        page.get_by_role("button", name="Earlier").click()
        expect(shown).not_to_have_text(first)
        page.get_by_role("button", name="All").click()
        expect(shown).to_have_text("")
        box = page.locator(".u-over").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 60, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 260, box["y"] + 40, steps=5)
        page.mouse.up()
        expect(shown).to_contain_text("Shown: ")
        # What lies under the pointer is told in numbers.
        expect(page.locator(".u-legend").first).to_contain_text("UTC")
        assert console.take() == []


def test_the_drawings_have_the_colours_of_the_theme_and_stand_in_nobodys_way(browser: Browser, busy: Server) -> None:
    with seat(browser, busy, color_scheme="light") as (page, console):
        for width in (1280, 360, 320):
            page.set_viewport_size({"width": width, "height": HEIGHT})
            page.goto("/admin/latency?model=credit-risk&version=1&span=7d")
            expect(page.locator(".u-wrap canvas")).to_have_count(2)
            assert BLUE["light"] in page.evaluate(COLOURS)
            assert violations(page) == []
            page.emulate_media(color_scheme="dark")
            page.wait_for_function(f"() => ({COLOURS})().includes('{BLUE['dark']}')")
            assert violations(page) == []
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert page.evaluate(FIND_SIDEWAYS) == []
            page.emulate_media(color_scheme="light")
        assert console.take() == []


def test_without_scripts_simpler_drawings_and_the_table_stand(browser: Browser, busy: Server) -> None:
    with seat(browser, busy, java_script_enabled=False) as (page, _):
        page.goto("/admin/latency")
        expect(page.locator("svg.plot")).to_have_count(3)
        expect(page.get_by_role("button", name="Closer")).to_be_hidden()
        page.get_by_text("Show as table").first.click()
        table = page.locator("#figures")
        expect(table).to_be_visible()
        assert table.locator("tbody tr").count() in {24, 25}


def test_only_this_page_brings_the_library(browser: Browser, busy: Server) -> None:
    with seat(browser, busy) as (page, _):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto("/admin/predictions")
        assert not any("uplot" in each.lower() for each in asked)
        page.goto("/admin/latency")
        assert sum("uplot" in each.lower() for each in asked) == 2
