"""Every page of the admin UI, in every state, for everyone: light and dark, wide and narrow, by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyotp
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.conftest import eventually
from tests.functional.browser import Console, chromium, sign_in, violations, window
from tests.functional.server import Server
from tests.functional.stock import LONG_KEY, LONG_USER, MODEL, NUMBER, PASSWORD, TEXTS, Stocked, stocked_server
from webapp import config
from webapp.app import create_app

# GET addresses that give no page of their own.
NO_PAGES = {
    "/admin/models/<name>/versions/<int:number>/artifact": "a file",
    "/admin/jobs/<job_id>/results": "a file",
    "/admin/models/<name>/workers": "a part of the version's page",
    "/admin/predictions/export/<any(csv, jsonl, parquet):form>": "a file",
    "/admin/predictions/exports/<export_id>/file": "a file",
}
HEIGHT, NARROWEST = 900, 320
# Width, what the system prefers, what the person chose. That the other way to a theme gives the same colours is looked
# at by itself.
Theme = Literal["light", "dark"]
THEMES: tuple[tuple[Theme, Theme], ...] = (("light", "dark"), ("dark", "light"))
Look = tuple[int, Theme, Theme | None]
LOOKS: tuple[Look, ...] = ((1280, "light", None), (360, "light", "dark"))
# What only a program can mean, and two sentences of ours that begin so.
LEFT_OVER = re.compile(r"\bNone\b(?! active\b| was heard of yet\b)|\bUndefined\b|<bound method|object at 0x|\{\{|\{%")
READ_TEXTS = """() => {
  const walker = document.createTreeWalker(document, NodeFilter.SHOW_TEXT);
  const found = [];
  // Parameters of an estimator are written as Python has them.
  while (walker.nextNode())
    if (!walker.currentNode.parentElement.closest(".python")) found.push(walker.currentNode.data);
  for (const each of document.querySelectorAll("*")) for (const {value} of each.attributes) found.push(value);
  return found;
}"""
FIND_SIDEWAYS = """() => [...document.querySelectorAll("*")]
  .filter((each) => each === document.documentElement ? each.scrollWidth > innerWidth
    : each.scrollWidth > each.clientWidth && ["auto", "scroll"].includes(getComputedStyle(each).overflowX))
  .map((each) => each.cloneNode(false).outerHTML)"""
CHOOSE = """(theme) => {
  const {dataset} = document.documentElement;
  if (theme) dataset.bsTheme = theme; else delete dataset.bsTheme;
}"""
READ_COLOURS = """() => [...document.querySelectorAll("body, body *:not(#reference *)")].map((each) => {
  const {color, backgroundColor, borderTopColor, fill, boxShadow} = getComputedStyle(each);
  // Whether it is just being asked for anew is no matter of colours.
  const shown = each.cloneNode(false);
  shown.classList.remove("htmx-request", "htmx-swapping", "htmx-settling", "htmx-added");
  return [shown.outerHTML, color, backgroundColor, borderTopColor, fill, boxShadow].join(" ");
})"""


# --- Who looks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat:
    """A window of somebody's own, and what is said on its console."""

    page: Page
    console: Console


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all pages."""
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def stocked(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stocked]:
    """A server on which everything was done."""
    with stocked_server(tmp_path_factory.mktemp("stocked")) as made:
        yield made


@pytest.fixture(scope="module")
def fresh(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which nothing was done."""
    made = Server(tmp_path_factory.mktemp("fresh") / "data", workers=1)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def seats(browser: Browser, fresh: Server, stocked: Stocked) -> Iterator[dict[str, Seat]]:
    """A newcomer's window on the fresh server; on the other an admin's, a viewer's and a stranger's."""
    wanted = {
        "newcomer": (fresh, fresh.cli("users", "create", "mara", "--role", "admin")["link"]),
        "admin": (stocked.server, stocked.links["mara"]),
        "viewer": (stocked.server, stocked.links["vera"]),
        "stranger": (stocked.server, None),
    }
    with ExitStack() as stack:
        made = {}
        for who, (server, link) in wanted.items():
            # Without motion: colours that are on their way from one theme to the other are nobody's.
            page = stack.enter_context(window(browser, server, reduced_motion="reduce")).new_page()
            made[who] = Seat(page, Console(page))
            if link:
                sign_in(page, link)
        yield made


# --- What there is to see -------------------------------------------------------------------------------------------

# A name for people who read a failure, and what leads there.
View = tuple[str, Callable[[Page], object]]
# Addresses with a query, and addresses that are refused, with the status of their answer.
ADDRESSES = {
    "admin": (
        ("/admin?span=30d", 200),
        ("/admin/audit?q=nothing", 200),
        ("/admin/keys?q=nothing", 200),
        ("/admin/keys?state=all", 200),
        (f"/admin/models/{MODEL}/as-of?as_of=never", 422),
        (f"/admin/models/{MODEL}/compare?from=1&to=1", 422),
        ("/admin/models/nothing", 404),
        ("/admin/predictions?outcome=nothing", 200),
        ("/admin/predictions?warned=1", 200),
    ),
    "viewer": (("/admin/users", 403),),
    "stranger": (("/login/never-made", 404),),
}
STATES: dict[str, list[Callable[[Page], None]]] = {}


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The rules that give a page, with the role that each asks for, as the application itself knows them."""
    folder = tmp_path_factory.mktemp("routes")
    app = create_app(config.prepare(config.load({"MODELPORT_DATA_DIR": str(folder)})))
    rules = [rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    pages = [rule for rule in rules if rule.rule.startswith(("/admin", "/docs", "/log"))]
    found = {rule.rule: getattr(app.view_functions[rule.endpoint], "role", "nobody") for rule in pages}
    assert found.keys() >= NO_PAGES.keys()
    return {rule: role for rule, role in found.items() if rule not in NO_PAGES}


def views_of(who: str, routes: dict[str, str], stocked: Stocked) -> list[View]:
    """Give every page, and every state of one, that somebody can see."""
    roles = {"stranger": ("anyone",), "viewer": ("viewer",)}.get(who, ("viewer", "operator", "admin"))
    seen = sorted(rule for rule, role in routes.items() if role in roles)
    if who == "newcomer":
        return [address(rule) for rule in seen if "<" not in rule and rule not in stocked.examples]
    filled = [address(path) for rule in seen for path in paths(rule, stocked.examples)]
    others = [address(path, status) for path, status in ADDRESSES.get(who, ())]
    return [*filled, *others, *((state.__name__.replace("_", " "), state) for state in STATES.get(who, ()))]


def paths(rule: str, examples: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Give the addresses that stand for a rule."""
    names = re.findall(r"<(?:[^<>]*:)?([a-z_]+)>", rule)
    assert not names or rule in examples, f"{rule} is new: say in stock.py by which examples to look at it"
    found = []
    for values in examples.get(rule, [{}]):
        path = rule
        for name in names:
            path = re.sub(rf"<(?:[^<>]*:)?{name}>", str(values[name]), path)
        query = "&".join(f"{name}={value}" for name, value in values.items() if name not in names)
        found.append(f"{path}?{query}" if query else path)
    return found


def address(path: str, status: int = 200) -> View:
    """Give the view of what an address answers."""

    def show(page: Page) -> None:
        response = page.goto(path)
        assert response is not None
        assert response.status == status, f"{path} answers {response.status}"

    return path, show


# --- States that no address leads to --------------------------------------------------------------------------------


def seen_by(who: str) -> Callable[[Callable[[Page], None]], Callable[[Page], None]]:
    """Name who comes to a state of a page."""

    def note(state: Callable[[Page], None]) -> Callable[[Page], None]:
        STATES.setdefault(who, []).append(state)
        return state

    return note


def press(page: Page, button: str) -> None:
    """Press a button that is not in the menu."""
    page.get_by_role("main").get_by_role("button", name=button).click()


def is_refused(page: Page, sentence: str) -> None:
    """Expect what is wrong above the form, with the focus on it."""
    expect(page.get_by_role("alert").filter(has_text=sentence)).to_be_focused()


def comes_back(page: Page, sentence: str) -> None:
    """Expect a refusal whose lines lead to the fields that they are about."""
    is_refused(page, sentence)
    links = page.get_by_role("alert").get_by_role("link")
    expect(links).not_to_have_count(0)
    for link in links.all():
        expect(page.locator(str(link.get_attribute("href")))).to_be_visible()


@seen_by("admin")
def a_key_that_may_do_nothing(page: Page) -> None:
    page.goto("/admin/keys/new")
    page.get_by_label("Name", exact=True).fill("web shop")
    page.get_by_label("predict", exact=True).uncheck()
    press(page, "Create key")
    comes_back(page, "A key without a scope may do nothing.")


@seen_by("admin")
def a_key_that_is_shown_once(page: Page) -> None:
    page.goto("/admin/keys/new")
    page.get_by_label("Name", exact=True).fill(LONG_KEY)
    press(page, "Create key")
    expect(page.get_by_text("Shown only once")).to_be_visible()


@seen_by("admin")
def a_key_that_was_made_already(page: Page) -> None:
    a_key_that_is_shown_once(page)
    page.reload()
    expect(page.get_by_text("was shown once")).to_be_visible()


@seen_by("admin")
def a_key_with_a_limit_that_is_none(page: Page) -> None:
    page.goto("/admin/keys")
    page.get_by_role("link", name=LONG_KEY, exact=True).last.click()
    page.get_by_label("Rate limit").fill("often")
    press(page, "Save changes")
    comes_back(page, "often")


@seen_by("admin")
def a_key_whose_name_was_typed_wrong(page: Page) -> None:
    page.goto("/admin/keys")
    page.get_by_role("link", name="Revoke unused").click()
    page.get_by_label("Type the key's name").fill("used")
    press(page, "Revoke unused")
    comes_back(page, "Type the key's name, unused, as it stands here.")


@seen_by("admin")
def a_model_that_cannot_be_called_so(page: Page) -> None:
    page.goto("/admin/upload")
    page.get_by_label("Model", exact=True).fill("stats")
    page.get_by_label("Model file").set_input_files(Path(__file__))
    press(page, "Upload model")
    comes_back(page, "cannot be a model's name")


@seen_by("admin")
def a_signature_with_words_for_numbers(page: Page) -> None:
    page.goto(f"/admin/models/{MODEL}/versions/1/signature")
    for rule in ("At least", "At most", "Default when left out"):
        page.get_by_role("region", name=NUMBER).get_by_label(rule).fill("many")
    press(page, "Save as a new version")
    comes_back(page, "3 entries need a change.")


@seen_by("admin")
def an_instance_that_breaks_a_rule(page: Page) -> None:
    page.goto(f"/admin/models/{MODEL}/versions/1/try")
    page.get_by_label(NUMBER).fill("-1")
    press(page, "Predict")
    comes_back(page, "It cannot be less than nothing.")


@seen_by("admin")
def an_answer_with_a_warning(page: Page) -> None:
    page.goto(f"/admin/models/{MODEL}/versions/1/try")
    page.get_by_label("plan").fill("gold")
    press(page, "Predict")
    expect(page.get_by_role("status").filter(has_text="plan")).to_be_visible()


@seen_by("admin")
def filters_that_mean_nothing(page: Page) -> None:
    page.goto("/admin/predictions?low=2&high=-1&version=x&input=y&key=nobody")
    comes_back(page, "5 entries need a change.")


@seen_by("admin")
def a_user_who_is_there_already(page: Page) -> None:
    page.goto("/admin/users")
    page.get_by_label("Name", exact=True).fill("vera")
    press(page, "Make sign-in link")
    comes_back(page, "There is a user “vera” already.")


@seen_by("admin")
def a_link_to_hand_over(page: Page) -> None:
    page.goto(f"/admin/users/{LONG_USER}")
    press(page, "Reset password and make a link")
    expect(page.get_by_text("Shown only once")).to_be_visible()


@seen_by("admin")
def the_last_admin(page: Page) -> None:
    page.goto("/admin/users/mara")
    press(page, "Disable mara")
    is_refused(page, "“mara” is the last admin")


@seen_by("viewer")
def a_password_that_was_typed_in_two_ways(page: Page) -> None:
    page.goto("/admin/account")
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    page.get_by_label("New password once more").fill(f"{PASSWORD}!")
    press(page, "Set password")
    comes_back(page, "The two are not the same")


@seen_by("viewer")
def a_first_code_that_is_wrong(page: Page) -> None:
    page.goto("/admin/account/codes")
    page.get_by_label("Code that the app shows now").fill("no code")
    press(page, "Turn on one-time codes")
    comes_back(page, "This is not the code of now")


@seen_by("viewer")
def recovery_codes_that_are_shown_once(page: Page) -> None:
    page.goto("/admin/account/codes")
    code = pyotp.TOTP(page.locator("#secret").inner_text()).now()
    page.get_by_label("Code that the app shows now").fill(code)
    press(page, "Turn on one-time codes")
    expect(page.get_by_text("Shown only once")).to_be_visible()


@seen_by("viewer")
def one_time_codes_that_stay_on(page: Page) -> None:
    page.goto("/admin/account")
    page.get_by_label("Code that the app shows now").fill("no code")
    press(page, "Turn off one-time codes")
    comes_back(page, "This code is wrong or was used")


@seen_by("stranger")
def a_password_that_is_wrong(page: Page) -> None:
    page.goto("/login")
    page.get_by_label("Name").fill("mara")
    page.get_by_label("Password").fill("not this one")
    press(page, "Sign in")
    is_refused(page, "The name or the password is wrong.")


@seen_by("stranger")
def a_password_that_is_not_enough(page: Page) -> None:
    page.goto("/login")
    page.get_by_label("Name").fill("otto")
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Sign in")
    expect(page.get_by_role("heading", name="One-time code")).to_be_visible()


@seen_by("stranger")
def a_code_that_is_wrong(page: Page) -> None:
    a_password_that_is_not_enough(page)
    page.get_by_label("Code").fill("no code")
    press(page, "Sign in")
    is_refused(page, "This code is wrong or was used")


# --- What holds for all of them -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Walk:
    """What somebody found on the way through all pages."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    left_over: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture(scope="module", params=["newcomer", "admin", "viewer", "stranger"])
def walk(request: pytest.FixtureRequest, seats: dict[str, Seat], routes: dict[str, str], stocked: Stocked) -> Walk:
    """One walk through all pages, on which everything is looked at."""
    seat, found = seats[request.param], Walk()
    for name, show in views_of(request.param, routes, stocked):
        show(seat.page)
        found.left_over[name] = [text for text in seat.page.evaluate(READ_TEXTS) if LEFT_OVER.search(text)]
        # A viewer sees the pages of an admin with less on them: narrow and dark they are looked at again.
        found.faults[name] = faults(seat, LOOKS[-1:] if request.param == "viewer" else LOOKS)
    return found


def faults(seat: Seat, looks: Sequence[Look]) -> list[str]:
    """Give what is wrong with a page in one of these looks."""
    page, found = seat.page, []
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    for width, system, chosen in looks:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        choose(page, system, chosen)
        look = f"{width} px, {chosen or system}"
        found += [f"{look}: {fault}" for fault in [*sideways(page), *violations(page)]]
    page.set_viewport_size({"width": NARROWEST, "height": HEIGHT})
    found += [f"{NARROWEST} px: {fault}" for fault in sideways(page)]
    found += [f"other colours than by choice: {element}" for element in unlike(page)]
    return [*found, *(f"the console: {sentence}" for sentence in seat.console.take())]


def choose(page: Page, system: Theme, chosen: Theme | None) -> None:
    """Have the system prefer a theme, and a person choose one or none."""
    page.emulate_media(color_scheme=system, reduced_motion="reduce")
    page.evaluate(CHOOSE, chosen)


def unlike(page: Page) -> list[str]:
    """Give what has another colour where the system prefers a theme than where a person chose it."""
    found = []
    for theme, other in THEMES:
        choose(page, theme, None)
        preferred = page.evaluate(READ_COLOURS)
        choose(page, other, theme)
        found += [was for was, is_now in zip(preferred, page.evaluate(READ_COLOURS), strict=True) if was != is_now]
    return found


def sideways(page: Page) -> list[str]:
    """Give what has to be moved sideways to be read: the page itself, or a part of it."""
    return [f"scrolls sideways: {element}" for element in page.evaluate(FIND_SIDEWAYS)]


def listed(found: dict[str, list[str]]) -> str:
    """Give findings by page, for people; nothing when there are none."""
    return "\n".join(f"{name}\n  " + "\n  ".join(each) for name, each in found.items() if each)


def test_every_page_is_silent_fits_and_shuts_nobody_out(walk: Walk) -> None:
    assert not listed(walk.faults), listed(walk.faults)


def test_no_page_shows_what_only_a_program_can_mean(walk: Walk) -> None:
    assert not listed(walk.left_over), listed(walk.left_over)


def test_a_version_that_no_worker_can_load_is_told_of_until_one_can(seats: dict[str, Seat], stocked: Stocked) -> None:
    page = seats["admin"].page
    page.goto(f"/admin/models/{TEXTS}/versions/1/signature")
    press(page, "Save as a new version")
    expect(page.get_by_role("heading", name=f"{TEXTS} v3")).to_be_visible()
    [(seal,)] = stocked.server.rows("SELECT seal FROM versions ORDER BY id DESC LIMIT 1")
    press(page, f"Activate {TEXTS} v3")
    expect(page.get_by_role("status").filter(has_text="Every worker serves v3")).to_be_visible()
    told = page.get_by_role("alert").filter(has_text="It goes on with the version before.")

    def comes(locator: Locator) -> Callable[[], bool]:
        def look() -> bool:
            page.goto(f"/admin/models/{TEXTS}/versions/3")
            return locator.is_visible()

        return look

    # Prepared and committed, then damaged: who loads it from now on cannot.
    stocked.stock.alter("UPDATE versions SET seal = 'broken' WHERE seal = :seal", seal=seal)
    stocked.stock.alter("UPDATE generation SET number = number + 1")
    eventually(comes(told))
    found = {"the version": faults(seats["admin"], LOOKS)}
    for path, sentence in (("/admin", "A worker cannot load a version"), ("/admin/system", "Not loaded")):
        page.goto(path)
        expect(page.get_by_text(sentence)).to_be_visible()
        found[path] = faults(seats["admin"], LOOKS)
    assert not listed(found), listed(found)

    stocked.stock.alter("UPDATE versions SET seal = :seal WHERE seal = 'broken'", seal=seal)
    stocked.stock.alter("UPDATE generation SET number = number + 1")
    eventually(lambda: not comes(told)())
    expect(page.get_by_role("status").filter(has_text="Every worker serves v3")).to_be_visible()


def test_a_page_that_follows_something_goes_on_after_an_answer_that_was_lost(
    seats: dict[str, Seat], stocked: Stocked
) -> None:
    page = seats["admin"].page
    for path in (f"/admin/uploads/{stocked.examples['/admin/uploads/<upload_id>'][1]['upload_id']}", "/admin/jobs"):
        page.goto(path)
        page.route(f"**{path}", lambda route: route.abort(), times=1)
        with page.expect_event("requestfailed"):
            pass
        with page.expect_response(f"**{path}") as answer:
            pass
        assert answer.value.ok
    seats["admin"].console.take()


# --- With a keyboard alone ------------------------------------------------------------------------------------------


def test_the_first_stop_of_a_keyboard_leads_past_the_menu(seats: dict[str, Seat]) -> None:
    page = seats["admin"].page
    page.set_viewport_size({"width": 1280, "height": HEIGHT})
    page.goto("/admin/system")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_the_menu_of_a_phone_opens_and_closes_by_keyboard(seats: dict[str, Seat]) -> None:
    page = seats["admin"].page
    page.set_viewport_size({"width": 360, "height": HEIGHT})
    page.goto("/admin/system")
    opener, menu = page.get_by_role("button", name="Menu", exact=True), page.get_by_role("navigation", name="Main")
    expect(menu).to_be_hidden()
    for key in ("Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    expect(menu).to_be_visible()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        assert [*violations(page), *sideways(page)] == []
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(opener).to_be_focused()

    page.keyboard.press("Enter")
    page.get_by_role("button", name="Close menu").press("Enter")
    expect(menu).to_be_hidden()
    expect(opener).to_be_focused()
