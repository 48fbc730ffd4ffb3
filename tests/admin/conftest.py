"""A house for each test of the admin UI, and a cast: each person has a browser that signed in by a link."""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import pandas as pd
import pyotp
import pytest
import skops.io
import sqlalchemy as sa
from flask import Flask
from sklearn.linear_model import LogisticRegression
from werkzeug.routing import Rule
from werkzeug.routing.converters import AnyConverter
from werkzeug.test import TestResponse

from tests import databases
from webapp import alerts, config, jobs, keys, passwords, registry, second_factor, signature, users, webhooks
from webapp import app as composition
from webapp.admin.guard import SAFE_METHODS
from webapp.alerts import Found
from webapp.audit import Actor, AuditRecord
from webapp.config import Settings
from webapp.db import Base, Session, now
from webapp.drift import layout
from webapp.predictions import exports, log
from webapp.predictions.counts import FIRST_ROWS, DriftReference, HourlyCounts
from webapp.predictions.search import Wanted
from webapp.signature import Feature, Output, Signature
from webapp.uploads import Wish, waiting
from webapp.users import User
from webapp.web import Parts
from webapp.webhooks import EVENTS, deliveries

TESTER = Actor("cli:a-test")
BASE = "http://127.0.0.1:8000"
AGENT = "Mozilla/5.0 (a test)"
PASSWORD = "brisk otter paints seven doors"
SIGNATURE = Signature(
    features=(
        Feature("age", "integer", minimum=18.0, maximum=120.0, observed_minimum=20.0, observed_maximum=70.0),
        Feature("income", observed_minimum=1000.0, observed_maximum=90_000.0),
    ),
    container="frame",
    task="classification",
    outputs=(Output("churn", (0, 1)),),
    probabilities="table",
)
REPORT: dict[str, Any] = {
    "file": {"name": "model.joblib", "bytes": 2048, "sha256": "ab" * 32},
    "estimator": "LogisticRegression",
    "canonical_bytes": 1024,
    "normalised": [],
    "load_seconds": 0.01,
    "versions": {"scikit-learn": "1.9.1"},
    "reference_rows": None,
    "trial": {"rows": 100, "deterministic": True, "single_seconds": 0.001, "bulk_seconds": 0.002},
}
RECORD: dict[str, Any] = {
    "at": 1_772_366_400.25,  # 2026-03-01T12:00:00.25Z
    "model": "churn",
    "version": 1,
    "model_version": "1",
    "key_id": "key1",
    "request_id": "r-1",
    "source": "api",
    "client_id": None,
    "instance": {"age": 35.0, "income": 52_000.0},
    "prediction": 1,
    "probability": 0.75,
    "probabilities": {"0": 0.25, "1": 0.75},
    "warnings": [],
    "latency_seconds": 0.002,
}


@functools.cache
def artifact() -> bytes:
    """Give the canonical file of an estimator that fits `SIGNATURE`."""
    table = pd.DataFrame({"age": [20.0, 30, 60, 70], "income": [1000.0, 30_000, 60_000, 90_000]})
    return bytes(skops.io.dumps(LogisticRegression(max_iter=500).fit(table, [0, 0, 1, 1])))


@functools.cache
def hashed_password() -> str:
    """Give what is stored of `PASSWORD`; hashing is slow on purpose, and once is enough."""
    return passwords.hashed(PASSWORD)


# --- Browsers -------------------------------------------------------------------------------------------------

VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
Attributes = dict[str, str | None]


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements with their attributes, its text, its forms as they stand."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, Attributes]] = []
        # Each piece of text, with the element that it stands in.
        self.texts: list[tuple[str, str]] = []
        # Where each form is sent, and its fields as they stand.
        self.forms: list[tuple[str, list[tuple[str, str]]]] = []
        self._open: list[str] = []
        self._select: list[tuple[str, bool]] = []
        self._select_name = self._area_name = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute stands twice in <{tag}>"
        self.elements.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "form":
            self.forms.append((given.get("action") or "", []))
        elif tag == "select":
            self._select_name, self._select = name, []
        elif tag == "option":
            self._select.append((value, "selected" in given))
        elif tag == "textarea":
            self._area_name = name
            self._hold(name, "")
        elif tag == "input" and ("checked" in given or given.get("type") not in {"checkbox", "radio", "file"}):
            self._hold(name, value)

    def _hold(self, name: str, value: str) -> None:
        if self.forms and name:
            self.forms[-1][1].append((name, value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            chosen = [value for value, is_chosen in self._select if is_chosen]
            self._hold(self._select_name, (chosen or [value for value, _ in self._select])[0])
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        self.texts.append((inside, data))
        if inside == "textarea":
            name, held = self.forms[-1][1][-1]
            assert name == self._area_name
            # The newline after the tag is not part of the value.
            self.forms[-1][1][-1] = (name, held + (data if held else data.removeprefix("\n")))

    @property
    def text(self) -> str:
        """All text, as a person reads it."""
        return " ".join(" ".join(data for _, data in self.texts).split())

    def fields(self, action: str) -> dict[str, Any]:
        """Give the fields of the form that is sent to a path, filled in as it stands; several of a name as a list."""
        found = next(fields for path, fields in self.forms if path == action)
        names = dict.fromkeys(name for name, _ in found)
        values = {name: [value for each, value in found if each == name] for name in names}
        return {name: several if len(several) > 1 else several[0] for name, several in values.items()}

    @property
    def token(self) -> str:
        """The CSRF token of the first form that has one."""
        return next(value for _, fields in self.forms for name, value in fields if name == "csrf_token")


class Browser:
    """One browser: it keeps its cookies, has an address of its own, and sends forms as pages do."""

    def __init__(self, app: Flask, address: str = "192.0.2.1", base: str = BASE) -> None:
        self.app = app
        self.base = base
        self.client = app.test_client()
        self.client.environ_base = {"REMOTE_ADDR": address, "HTTP_USER_AGENT": AGENT}

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:
        """Send a request as it is, and take the whole answer."""
        return self.client.open(path, method=method, base_url=self.base, buffered=True, **more)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> TestResponse:
        """Fetch whatever is there."""
        return self.ask("GET", path, headers=headers)

    def page(self, path: str) -> Page:
        """Fetch a page that is there, and take it apart."""
        answer = self.get(path)
        assert (answer.status_code, answer.mimetype) == (200, "text/html"), answer.text[:500]
        return Page(answer.text)

    def token(self) -> str:
        """Give the CSRF token of this browser's session, out of a page."""
        answer = self.get("/login")
        return Page(answer.text).token if answer.status_code == 200 else self.page("/admin/account").token

    def post(
        self, path: str, fields: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> TestResponse:
        """Send a form, with this session's token where the fields bring none."""
        sent = dict(fields or {})
        if "csrf_token" not in sent:
            sent["csrf_token"] = self.token()
        return self.ask("POST", path, data=sent, headers=headers)

    def send(self, where: str, path: str, **typed: Any) -> TestResponse:
        """Open a page, fill in its form, and send it."""
        return self.post(path, {**self.page(where).fields(path), **typed})

    @property
    def _host(self) -> str:
        return urlsplit(self.base).hostname or ""

    @property
    def cookie(self) -> str:
        """The session's cookie, to be copied."""
        kept = self.client.get_cookie("modelport", self._host)
        assert kept is not None
        return kept.value

    @cookie.setter
    def cookie(self, value: str) -> None:
        self.client.set_cookie("modelport", value, domain=self._host)

    @property
    def signed_in(self) -> bool:
        """Whether a page that is for people lets this browser in."""
        answer = self.get("/admin/account")
        assert answer.status_code in {200, 303}, answer.text[:500]
        return answer.status_code == 200

    def copied(self) -> Browser:
        """Give another browser that somebody put a copy of this one's cookie into."""
        thief = Browser(self.app, "198.51.100.66", self.base)
        thief.cookie = self.cookie
        return thief


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.passed = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.passed

    def wait(self, **span: float) -> None:
        self.passed += timedelta(**span)


# --- Houses ---------------------------------------------------------------------------------------------------


@dataclass
class House:
    """One installation in this process, and who lives in it."""

    app: Flask
    parts: Parts
    settings: Settings
    # Values that the arguments of routes can have, once it is furnished.
    facts: dict[str, str] = field(default_factory=dict)
    addresses: Iterator[int] = field(default_factory=itertools.count)
    # Of those who have a second factor: the browser that they signed in with before, and what shows them their codes.
    browsers: dict[str, Browser] = field(default_factory=dict)
    codes: dict[str, pyotp.TOTP] = field(default_factory=dict)

    def browser(self, base: str = BASE) -> Browser:
        """Give a browser that nobody has signed in with."""
        high, low = divmod(next(self.addresses), 250)
        return Browser(self.app, f"198.18.{high}.{low}", base)

    def change(self, act: Callable[[Session], Any]) -> Any:
        """Do something in a transaction of its own."""
        with self.parts.database.transaction() as session:
            done = act(session)
            session.flush()
            return done

    def look(self, act: Callable[[Session], Any]) -> Any:
        """Read something."""
        with self.parts.database.reading() as session:
            return act(session)

    def user(self, name: str, role: str = "viewer", password: str | None = None) -> None:
        """Make a user; `password` is the hash of one."""

        def make(session: Session) -> None:
            made = users.create(session, TESTER, name, role)
            made.password = password

        self.change(make)

    def person(self, name: str) -> User:
        """Give a user's row."""
        found: User = self.look(lambda session: users.get_user(session, name))
        return found

    def link(self, name: str) -> str:
        """Give the token of a new sign-in link."""
        return str(self.change(lambda session: users.make_link(session, users.get_user(session, name))))

    def sign_in(self, name: str, browser: Browser | None = None) -> Browser:
        """Sign a user in by a link, through its page."""
        browser = browser or self.browser()
        path = f"/login/{self.link(name)}"
        answer = browser.send(path, path)
        assert (answer.status_code, answer.location) == (303, "/admin"), answer.text[:500]
        return browser

    def cast(self, role: str) -> Browser:
        """Give a new browser in which somebody of this role has signed in, who is called like it."""
        if self.look(lambda session: users.find_user(session, role)) is None:
            self.user(role, role)
        return self.sign_in(role)

    @cached_property
    def admin(self) -> Browser:
        """The browser of an admin."""
        return self.cast("admin")

    @cached_property
    def operator(self) -> Browser:
        """The browser of an operator."""
        return self.cast("operator")

    @cached_property
    def viewer(self) -> Browser:
        """The browser of a viewer."""
        return self.cast("viewer")

    def second_factor(self, name: str, password: str | None = None) -> None:
        """Make a user who is signed in, and will be asked for a code the next time."""
        self.user(name, password=password)
        self.browsers[name] = self.sign_in(name)
        nonce = second_factor.new_nonce()
        pepper = self.settings.derive(second_factor.PEPPER)
        self.codes[name] = pyotp.TOTP(second_factor.secret_of(pepper, nonce))
        self.change(
            lambda session: users.set_second_factor(session, TESTER, users.get_user(session, name), nonce, 0, [])
        )

    def audited(self, *actions: str) -> list[AuditRecord]:
        """Give the audit rows of these acts, or all, the oldest first."""
        chosen = sa.select(AuditRecord).order_by(AuditRecord.id)
        chosen = chosen.where(AuditRecord.action.in_(actions)) if actions else chosen
        return list(self.look(lambda session: list(session.scalars(chosen))))

    def version(
        self, name: str = "churn", signature: Signature = SIGNATURE, content: bytes | None = None, **more: Any
    ) -> int:
        """Register a version of a model that can be loaded; `content` is its file."""
        facts: dict[str, Any] = {"report": REPORT, "card": {"accuracy": 0.9}, **more}
        stored = self.parts.artifacts.put(content or artifact())
        secret, described = self.settings.derive("versions"), signature.as_dict()

        def add(session: Session) -> int:
            return registry.add_version(
                session, TESTER, secret, name, artifact=stored, signature=described, **facts
            ).number

        return int(self.change(add))

    def activate(self, number: int, name: str = "churn", reason: str = "") -> None:
        """Make a version the active one."""
        self.change(lambda session: registry.activate(session, TESTER, name, number, reason))

    def active(self, name: str = "churn") -> int | None:
        """Give the number of the active version."""
        return self.look(lambda session: registry.get_model(session, name).active_number)  # type: ignore[no-any-return]

    def key(self, name: str = "mobile-app", **terms: Any) -> tuple[str, str]:
        """Make an API key; give its id and the key."""
        row, key = self.change(lambda session: keys.create(session, TESTER, self.parts.ring.pepper, name, **terms))
        return row.id, key

    def every_key(self) -> list[keys.ApiKey]:
        """Give every key, the newest first."""
        return list(self.look(keys.all_keys))

    def job(self, key_id: str, model: str = "churn") -> str:
        """Submit a batch that nobody works on."""
        order = jobs.Order(key_id, test=False, model=model, version=1, form="json")
        return str(self.change(lambda session: jobs.accept(session, order, jobs.new_id(), [1])).id)

    def upload(self, name: str = "model.joblib", model: str = "churn") -> str:
        """Bring in a file that nobody inspects."""
        files = {"file": (name, lambda path: path.write_bytes(b"not inspected"))}
        return waiting.receive(self.parts.desk, TESTER, Wish(model), files)

    def prediction(self, number: int = 1, **more: Any) -> str:
        """Insert a prediction into the log."""
        facts = {**RECORD, "id": f"{number:032x}-0", **more}
        self.change(lambda session: log.insert(session, log.Piece("a-host", "a-segment", [facts], number)))
        return str(facts["id"])

    def count(self, number: int, name: str = "churn") -> None:
        """Begin to count a version for drift, with a reference of nothing, and predictions enough on 5 January."""

        def begin(session: Session) -> None:
            version = registry.get_version(session, registry.get_model(session, name), number)
            meant = layout.of(signature.from_dict(version.signature), [])
            facts = {"model": name, "version": number}
            none, some = (layout.packed(meant.count([RECORD] * rows)) for rows in (0, FIRST_ROWS))
            session.add(
                DriftReference(**facts, layout=meant.as_json(), counts=none, rows=0, origin="reference", made_at=now())
            )
            session.add(HourlyCounts(**facts, hour=datetime(2026, 1, 5, tzinfo=UTC), rows=FIRST_ROWS, counts=some))

        self.change(begin)

    def alert(self, **more: Any) -> int:
        """Let something be so that needs a person."""
        facts = {"kind": "latency", "sentence": "churn answers slowly.", "model": "churn", **more}
        return int(self.change(lambda session: alerts.see(session, Found(**facts))).id)

    def webhook(self, **more: Any) -> int:
        """Make a webhook that is told of everything, and was told something."""
        terms = {"name": "on-call", "url": "https://example.com/hook", "form": "standard", "events": list(EVENTS)}

        def make(session: Session) -> int:
            row = webhooks.create(session, TESTER, **{**terms, **more}, private=True)
            deliveries.send_test(session, row)
            return row.id

        return int(self.change(make))

    def export(self, form: str = "jsonl", wanted: Wanted = Wanted()) -> str:  # noqa: B008 - it is frozen
        """Ask for an export that nobody writes."""
        return str(self.change(lambda session: exports.ask(session, TESTER, form, wanted)).id)

    def furnish(self) -> House:
        """Put one of everything in."""
        self.version()
        self.version()
        self.activate(1)
        self.activate(2)
        self.count(2)
        self.change(lambda session: registry.switch_plan_off(session, TESTER, "churn", 1, "It answered otherwise."))
        key_id, key = self.key()
        alert_id, webhook_id = self.alert(), self.webhook()
        self.change(lambda session: alerts.snooze(session, TESTER, alert_id, "1h"))
        self.user("sam")
        self.sign_in("sam")
        self.user("dora")
        self.change(lambda session: users.disable(session, TESTER, "dora"))
        self.user("pat", password=hashed_password())
        self.user("lou")
        self.cast("admin")
        self.second_factor("toni")
        self.second_factor("ted", hashed_password())
        self.facts = {
            "name": "churn",
            "number": "1",
            "key_id": key_id,
            "key": key,
            "job_id": self.job(key_id),
            "upload_id": self.upload(),
            "prediction_id": self.prediction(key_id=key_id),
            "alert_id": str(alert_id),
            "webhook_id": str(webhook_id),
            "export_id": self.export(),
            "token": self.link("lou"),
        }
        return self

    def state(self) -> dict[str, Any]:
        """Give everything that is stored, to be compared; not when sessions were seen, which reading pages changes."""

        def rows(session: Session) -> dict[str, Any]:
            found = {}
            for table in Base.metadata.tables.values():
                columns = [column for column in table.columns if column.name != "seen_at"]
                found[table.name] = sorted(map(repr, session.execute(sa.select(*columns))))
            return found

        folders = (self.settings.quarantine_dir, self.settings.spool_dir)
        files = [(str(path), path.stat().st_size) for each in folders for path in each.rglob("*")]
        return {**self.look(rows), "files": sorted(files)}


@contextmanager
def open_house(data_dir: Path, compiled: Path, **settings: object) -> Iterator[House]:
    """Open an installation with nothing in it; `settings` are given without their prefix, in lower case."""
    given = {f"MODELPORT_{name.upper()}": str(value) for name, value in {"data_dir": data_dir, **settings}.items()}
    made = config.prepare(config.load(databases.environment(data_dir) | given))
    databases.make_migrated(data_dir)
    app = composition.create_app(made)
    # Each app compiles its templates anew; what comes of it is the same.
    app.jinja_env.bytecode_cache = jinja2.FileSystemBytecodeCache(str(compiled))
    parts: Parts = app.extensions["modelport"]
    yield House(app, parts, made)
    parts.database.engine.dispose()


@contextmanager
def serving(house: House) -> Iterator[House]:
    """Let a house predict, as a web worker does."""
    house.parts.spool.start()
    house.parts.follower.start(slot=None)
    yield house
    house.parts.follower.stop()
    house.parts.spool.stop()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled templates, which all houses share."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def new_house(tmp_path: Path, compiled: Path) -> Iterator[Callable[..., House]]:
    """Open houses with settings of their own."""
    with ExitStack() as stack:
        folders = (tmp_path / f"house-{number}" for number in itertools.count())

        def make(**settings: object) -> House:
            return stack.enter_context(open_house(next(folders), compiled, **settings))

        yield make


@pytest.fixture
def house(new_house: Callable[..., House]) -> House:
    """An installation with nothing in it."""
    return new_house()


@pytest.fixture
def lived_in(house: House) -> Iterator[House]:
    """An installation that predicts and has one of everything, for tests that change it."""
    with serving(house.furnish()) as made:
        yield made


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Iterator[House]:
    """An installation that predicts and has one of everything, for tests that only look."""
    with open_house(tmp_path_factory.mktemp("museum") / "data", compiled) as made, serving(made.furnish()):
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of people, links and sessions."""
    made = Clock()
    monkeypatch.setattr(users, "now", made)
    return made


# --- Routes and forms -----------------------------------------------------------------------------------------


def admin_rules(app: Flask) -> list[Rule]:
    """Give every route that belongs to a blueprint of the admin UI, by path."""
    found = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("admin_")]
    return sorted(found, key=lambda rule: (rule.rule, sorted(rule.methods or ())))


def unsafe(rule: Rule) -> frozenset[str]:
    """Give the methods of a route that change something."""
    return frozenset(rule.methods or ()) - SAFE_METHODS


def paths(house: House, rule: Rule) -> list[str]:
    """Give addresses that a route has: one, or one for each of the words that it takes."""
    facts = {**house.facts, **({"name": "sam"} if rule.endpoint.startswith("admin_users.") else {})}
    words = {
        name: sorted(converter.items)
        for name, converter in rule._converters.items()
        if isinstance(converter, AnyConverter)
    }
    adapter = house.app.url_map.bind("127.0.0.1")
    method = next(iter(sorted(rule.methods or ())))
    made = []
    for chosen in itertools.product(*words.values()):
        values = {name: facts[name] for name in rule.arguments - words.keys()} | dict(zip(words, chosen, strict=True))
        values |= {"number": int(values["number"])} if "number" in values else {}
        made.append(adapter.build(rule.endpoint, values, method=method))
    return made


@dataclass(frozen=True)
class Deed:
    """One form, as a person sends it: the page it stands on, where it goes, what is typed, and what is noted of it."""

    where: str
    path: str
    typed: Mapping[str, Any] = field(default_factory=dict)
    noted: tuple[str, ...] = ()
    # Who does it; nobody, when it needs no one to be signed in.
    who: str = "admin"

    def browser(self, house: House) -> Browser:
        """Give the browser of who does it."""
        if self.who == "nobody":
            return house.browser()
        if self.who == "halfway":
            browser = house.browser()
            browser.send("/login", "/login", name="ted", password=PASSWORD)
            return browser
        return house.admin if self.who == "admin" else house.browsers[self.who]

    def address(self, house: House) -> str:
        """Give where the form goes."""
        return self.path.format(**house.facts)

    def fields(self, house: House, browser: Browser) -> dict[str, Any]:
        """Give the form's fields, filled in, as the page gives them now."""
        page = browser.page(self.where.format(**house.facts))
        return {
            **page.fields(self.address(house)),
            **{n: _typed(value, house, page) for n, value in self.typed.items()},
        }

    def do(self, house: House, browser: Browser) -> TestResponse:
        """Do it."""
        return browser.post(self.address(house), self.fields(house, browser))


def _typed(value: Any, house: House, page: Page) -> Any:
    if callable(value):
        return value(house, page)
    return (io.BytesIO(value[0]), value[1]) if isinstance(value, tuple) else value


def _code_of(name: str) -> Callable[[House, Page], str]:
    return lambda house, _page: house.codes[name].now()


def _first_code(_house: House, page: Page) -> str:
    """Give what an app shows that took over the secret from the page."""
    secret = re.search(r"\b[A-Z2-7]{32}\b", page.text)
    assert secret
    return pyotp.TOTP(secret[0]).now()


ALERT, WEBHOOK = "/admin/alerts/{alert_id}", "/admin/webhooks/{webhook_id}"
KEY, VERSION, SAM = "/admin/keys/{key_id}", "/admin/models/{name}/versions/{number}", "/admin/users/sam"
# In an order in which all of them can be done; each can be done first, too.
DEEDS = {
    "create a key": Deed("/admin/keys/new", "/admin/keys", {"name": "till-app"}, ("keys.create",)),
    "edit a key": Deed(KEY, KEY, {"owner": "Mara"}, ("keys.edit",)),
    "roll a key": Deed(KEY, f"{KEY}/roll", {}, ("keys.create", "keys.roll")),
    "revoke a key": Deed(f"{KEY}/revoke", f"{KEY}/revoke", {"name": "mobile-app"}, ("keys.revoke",)),
    "activate": Deed(VERSION, f"{VERSION}/activate", {"reason": "better"}, ("models.activate",)),
    "roll back": Deed("/admin/models/{name}", "/admin/models/{name}/rollback", {}, ("models.rollback",)),
    "allow a plan": Deed(VERSION, f"{VERSION}/plan", {"reason": "mended"}, ("models.plan_on",)),
    "edit a signature": Deed(f"{VERSION}/signature", f"{VERSION}/signature", {"f0-maximum": "99"}, ("models.upload",)),
    "snooze an alert": Deed(ALERT, f"{ALERT}/snooze", {"span": "7d"}, ("alerts.snooze",)),
    "acknowledge an alert": Deed(ALERT, f"{ALERT}/acknowledge", {}, ("alerts.acknowledge",)),
    "resolve an alert": Deed(ALERT, f"{ALERT}/resolve", {}, ("alerts.resolve",)),
    "open an alert again": Deed(ALERT, f"{ALERT}/reopen", {}, ("alerts.reopen",)),
    "add a webhook": Deed(
        "/admin/webhooks/new", "/admin/webhooks", {"name": "chat", "url": "https://example.com"}, ("webhooks.create",)
    ),
    "change a webhook": Deed(WEBHOOK, WEBHOOK, {"name": "night shift"}, ("webhooks.edit",)),
    "roll a secret": Deed(WEBHOOK, f"{WEBHOOK}/roll", {}, ("webhooks.roll",)),
    "send a test": Deed(WEBHOOK, f"{WEBHOOK}/test"),
    "disable a webhook": Deed(WEBHOOK, f"{WEBHOOK}/switch", {}, ("webhooks.disable",)),
    "remove a webhook": Deed(f"{WEBHOOK}/remove", f"{WEBHOOK}/remove", {}, ("webhooks.remove",)),
    "cancel a job": Deed("/admin/jobs", "/admin/jobs/{job_id}/cancel", {}, ("jobs.cancel",)),
    "compare with another time": Deed(
        "/admin/drift",
        "/admin/drift/compare-with",
        {"since": "2026-01-05", "until": "2026-01-05"},
        ("drift.compare_with",),
    ),
    "compare with the reference": Deed(
        "/admin/drift", "/admin/drift/compare-with-reference", {}, ("drift.compare_with",)
    ),
    "ask for an export": Deed(
        "/admin/predictions/exports", "/admin/predictions/exports", {"form": "csv"}, ("predictions.export",)
    ),
    "remove an export": Deed(
        "/admin/predictions/exports",
        "/admin/predictions/exports/{export_id}/remove",
        {},
        ("predictions.remove_export",),
    ),
    "delete a subject": Deed(
        "/admin/predictions/subject",
        "/admin/predictions/subject",
        {"subject": "ada-1815", "again": "ada-1815"},
        ("predictions.delete_subject",),
    ),
    "try a version": Deed(f"{VERSION}/try", f"{VERSION}/try"),
    "upload a file": Deed("/admin/upload", "/admin/upload", {"model": "new", "file": (b"not inspected", "m.skops")}),
    "create a user": Deed("/admin/users", "/admin/users", {"name": "nia", "role": "viewer"}, ("users.create",)),
    "change a role": Deed(SAM, f"{SAM}/role", {"role": "operator"}, ("users.role",)),
    "sign a user out": Deed(SAM, f"{SAM}/sign-out", {}, ("users.sign_out",)),
    "reset a password": Deed(SAM, f"{SAM}/link", {}, ("users.reset_password",)),
    "disable a user": Deed(SAM, f"{SAM}/disable", {}, ("users.disable",)),
    "enable a user": Deed("/admin/users/dora", "/admin/users/dora/enable", {}, ("users.enable",)),
    "sign out elsewhere": Deed("/admin/account", "/admin/account/sessions"),
    "set a password": Deed(
        "/admin/account", "/admin/account/password", {"chosen": PASSWORD, "again": PASSWORD}, ("users.password",)
    ),
    "turn on codes": Deed(
        "/admin/account/codes", "/admin/account/codes", {"code": _first_code}, ("users.second_factor",)
    ),
    "turn off codes": Deed(
        "/admin/account", "/admin/account/codes/off", {"code": _code_of("toni")}, ("users.second_factor",), "toni"
    ),
    "switch the theme": Deed("/admin", "/admin/theme", {"theme": "dark"}),
    "sign in by a link": Deed("/login/{token}", "/login/{token}", {}, ("users.sign_in",), "nobody"),
    "sign in by a password": Deed(
        "/login", "/login", {"name": "pat", "password": PASSWORD}, ("users.sign_in",), "nobody"
    ),
    "sign in by a code": Deed("/login/code", "/login/code", {"code": _code_of("ted")}, ("users.sign_in",), "halfway"),
    "sign out": Deed("/admin", "/logout"),
}
