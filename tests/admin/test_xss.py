"""What others wrote is text wherever it is shown: it makes no element, no attribute, no formula, no line of a log."""

from __future__ import annotations

import csv
import io
import json
import logging
import logging.config
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import sqlalchemy as sa
from sklearn.linear_model import LogisticRegression

from tests.admin.conftest import (
    REPORT,
    TESTER,
    Browser,
    House,
    Page,
    admin_rules,
    hashed_password,
    open_house,
    paths,
    serving,
    unsafe,
)
from webapp import alerts, audit, db, fleet, jobs, logs, users
from webapp.audit import Actor
from webapp.predictions import files
from webapp.predictions.search import Wanted
from webapp.signature import Feature, Output, Signature
from webapp.uploads import waiting
from webapp.webhooks.deliveries import Delivery

# Short enough to be shown again by forms, and each begins with what it is about.
PAYLOADS = {
    "elements": "</textarea></title></noscript><script>alert(1)</script><style>*{}</style><!--<b>",
    "ends of attributes": '"><img src=x onerror=alert(1)>\'><svg/onload=alert(2)>" autofocus onfocus=alert(3) x="',
    "an address": 'javascript:alert(1)//"onmouseover=alert(2)',
    "templates and formats": "{{7*7}}{% raw %}${7*7}'-alert(1)-'`{subject.__class__} %s &lt;b&gt;&#60;",
    "what is not seen": "abc\u202egpj.exe\u2066\u200b\x1b[2J\x1b]0;owned\x07\x9b31m\r\nsecond\u2028third\u0085end",
    "very long": "<b>" * 1333 + "!",
}
PLAIN = "plain text"
MOST_LOOKED_FOR = 90


class Names:
    """A text, and others that begin like it: names that must differ."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, number: int) -> str:
        return f"{self.text}{number}" if number else self.text


def numeric(text: str) -> Signature:
    """Give the signature of a version that can be tried: all its texts are `text`."""
    name = Names(text)
    return Signature(
        features=(
            Feature(name(0), minimum=1.0, description=text, message=text, observed_minimum=1.0, observed_maximum=2.0),
            Feature(name(1), default=3.0, nullable=False, description=text),
        ),
        container="array",
        task="classification",
        outputs=(Output(text, tuple(sorted((text, "zz")))),),
        probabilities="table",
    )


def textual(text: str) -> Signature:
    """Give the signature of a version with texts as values."""
    values = (text, "other")
    return Signature(
        features=(
            Feature(text, "string", allowed=values, default=text, description=text, message=text),
            Feature(f"{text}2", "string", observed_values=values, description=text),
            Feature(f"{text}3", "boolean", nullable=True),
        ),
        container="frame",
        task="classification",
        outputs=(Output(text, values), Output(f"{text}2", values)),
        probabilities="tables",
        multi_output=True,
    )


def estimator(text: str) -> bytes:
    """Give the file of an estimator that answers with the text."""
    fitted = LogisticRegression().fit(np.array([[1.0, 1], [2, 2], [8, 8], [9, 9]]), [text, text, "zz", "zz"])
    return bytes(skops.io.dumps(fitted))


def report(text: str) -> dict[str, Any]:
    file = {"name": text, "bytes": 1, "sha256": text}
    return {
        **REPORT,
        "file": file,
        "estimator": text,
        "normalised": [text],
        "versions": {text: text, "scikit-learn": text},
    }


def stocked(house: House, text: str) -> House:
    """Put a text into everything that others can write."""
    name = Names(text)
    card = {"accuracy": 0.9, "notes": text, name(0): text, "tags": [text, {text: text}], "owner": {"name": text}}
    facts = {"card": card, "report": report(text)}
    content = estimator(text)
    for _ in range(3):
        house.version("churn", numeric(text), content, **facts)
    house.version("texts", textual(text), **facts)
    for number in (1, 2):
        house.activate(number, reason=text)
    house.activate(1, "texts", reason=text)
    house.count(2)
    key_id, _ = house.key(text, owner=text, models=[text, "churn"])
    job_id = house.job(key_id)
    house.change(lambda session: jobs.fail(session, jobs.find_job(session, job_id), text))
    refused, waiting = house.upload(text), house.upload(text)
    house.change(lambda session: refuse(session, refused, text))
    for number, (model, version) in enumerate((("churn", 1), ("churn", 2), ("texts", 1), ("gone", 1))):
        prediction(house, number, text, model=model, version=version, key_id=[key_id, text][number % 2])
    house.user("mara", "admin", hashed_password())
    stranger = Browser(house.app, text)
    stranger.client.environ_base["HTTP_USER_AGENT"] = wire(text)
    house.sign_in("mara", stranger)
    who = Actor(f"cli:{text}", text, text)
    house.change(lambda session: audit.record(session, who, text[:MOST_LOOKED_FOR].strip(), text, **{name(0): text}))
    house.change(
        lambda session: audit.record(session, Actor(text), "models.activate", text, to_number=text, reason=text)
    )
    house.change(lambda session: fleet.report(session, text, 0, 1, 1, failure=text))
    house.change(lambda session: fleet.beat(session, text, text))
    alert_id = house.alert(kind=text, sentence=text, model=text, subject=text, details={text: text, "seconds": text})
    house.change(lambda session: alerts.acknowledge(session, Actor(f"user:{text}"), alert_id))
    webhook_id = house.webhook(name=text)
    house.change(lambda session: answered(session, text))
    house.facts = {
        "alert_id": str(alert_id),
        "webhook_id": str(webhook_id),
        "name": "churn",
        "number": "1",
        "key_id": key_id,
        "job_id": job_id,
        "upload_id": refused,
        "waiting": waiting,
        "prediction_id": f"{0:032x}-0",
        "export_id": house.export(wanted=Wanted(client_id=text, feature=text)),
        "token": "none",
    }
    house.user("sam")
    return house


def answered(session: Any, text: str) -> None:
    """Let every webhook have answered with a text."""
    session.execute(sa.update(Delivery).values(status=500, answer=text, sentence=text, attempts=1))


def refuse(session: Any, upload_id: str, text: str) -> None:
    """Refuse an upload for what its file says."""
    findings = [{"name": text, "meaning": text, "code": text}]
    refusal = {"code": text, "detail": text, "findings": findings}
    pending = waiting.get_upload(session, upload_id)
    pending.done_at, pending.refusal = db.now(), refusal


def prediction(house: House, number: int, text: str, **more: Any) -> None:
    """Log a prediction that is made of a text."""
    facts = {
        "client_id": text,
        "request_id": text,
        "model_version": text,
        "source": text,
        "instance": {text: text, f"{text}1": [text], f"{text}2": None},
        "prediction": text,
        "probabilities": {text: 0.5, "zz": 0.5},
        "warnings": [{"feature": text, "code": text, "message": text}],
    }
    house.prediction(number, **facts, **more)


Request = tuple[str, str, dict[str, Any]]


def readable(house: House) -> Iterator[str]:
    """Give the address of every page, and of those that hold more than the first of their kind."""
    for rule in admin_rules(house.app):
        if not unsafe(rule) and not rule.rule.startswith(("/login", "/admin/account/codes")):
            yield from paths(house, rule)
    for number in (2, 3):
        yield f"/admin/models/churn/versions/{number}"
    yield "/admin/models/texts"
    yield "/admin/models/texts/versions/1"
    yield "/admin/models/texts/versions/1/signature"
    yield f"/admin/uploads/{house.facts['waiting']}"
    yield "/admin/users/mara"
    for number in range(1, 4):
        yield f"/admin/predictions/{number:032x}-0"


QUERIES: dict[str, tuple[str, ...]] = {
    "/admin/keys": ("q", "state", "page"),
    "/admin/audit": ("q", "actor", "action", "before"),
    "/admin/predictions": ("model", "version", "key", "caller", "source", "outcome", "low", "high", "from", "input"),
    "/admin/predictions/exports": ("model", "caller", "from", "input"),
    "/admin/upload": ("model",),
    "/admin": ("span",),
    "/admin/predictions/find": ("id",),
    "/admin/models/churn/versions/1/try": ("prediction",),
    "/admin/alerts": ("state", "before"),
}


def forms(house: House, text: str) -> dict[str, dict[str, Any]]:
    """Give what is typed into every form."""
    key, rules = f"/admin/keys/{house.facts['key_id']}", ("minimum", "maximum", "default")
    return {
        "/admin/keys": {"name": text, "owner": text, "scopes": text, "models": text, "rate_limit": text, "days": text},
        key: {"name": text, "owner": text, "scopes": text, "models": text},
        f"{key}/revoke": {"name": text},
        "/admin/webhooks": {"name": text, "url": text, "format": text, "events": text},
        f"/admin/webhooks/{house.facts['webhook_id']}": {"name": text, "url": text, "events": text},
        f"/admin/alerts/{house.facts['alert_id']}/snooze": {"span": text},
        "/admin/users": {"name": text, "role": text},
        "/admin/users/sam/role": {"role": text},
        "/admin/upload": {"model": text, "target": text, "label": text, "activate": text},
        "/admin/models/churn/versions/1/signature": {f"f0-{part}": text for part in rules},
        "/admin/models/churn/versions/1/try": {"f0": text, "f1": text},
        "/admin/models/churn/rollback": {"reason": text, "to": "7"},
        "/admin/account/password": {"present": text, "chosen": text, "again": text},
        "/admin/predictions/subject": {"subject": text, "again": "another", "model": text},
        "/admin/theme": {"theme": text, "back": text},
    }


def asked(house: House, text: str) -> Iterator[Request]:
    """Give requests that reach every page, and those that get back what they sent."""
    yield from (("GET", path, {}) for path in readable(house))
    for path, names in QUERIES.items():
        # An input is looked for by name and value.
        values = {name: f"x={text[:MOST_LOOKED_FOR]}" if name == "input" else text[:MOST_LOOKED_FOR] for name in names}
        yield from (("GET", path, {"query_string": {name: value}}) for name, value in values.items())
    wrong = dict.fromkeys(("version", "key", "low", "high", "input"), f"no {text[:80]}".replace("=", ""))
    yield "GET", "/admin/predictions", {"query_string": wrong}
    for path, fields in forms(house, text).items():
        yield "POST", path, {"data": fields}
    yield "POST", "/admin/models/churn/versions/1/try", {"data": {"f0": "1.5", "f1": "2"}}
    for folder in ("/admin/models/", "/admin/keys/", "/admin/users/", "/admin/uploads/", "/admin/", "/login/"):
        yield "GET", folder, {"environ_overrides": {"PATH_INFO": folder + wire(text)}}


def wire(text: str) -> str:
    """Give a text as WSGI passes it on."""
    return text.encode(errors="replace").decode("latin-1")


@dataclass(frozen=True)
class Shown:
    """A page with its status."""

    status: int
    page: Page


def shown(house: House, text: str) -> Iterator[tuple[str, Shown]]:
    """Give every page as the admin sees it, by what was asked for."""
    admin = house.sign_in("mara")
    admin.client.set_cookie("theme", "".join(each for each in text if 32 < ord(each) < 127 and each not in '";,\\'))
    token = admin.token()
    for method, path, sent in asked(house, text):
        names = sorted(sent.get("query_string", sent.get("data", {})))
        if method == "POST":
            sent["data"] = {"csrf_token": token, **sent["data"]}
        answer = admin.ask(method, path, **sent)
        assert answer.status_code < 500, (method, path)
        if answer.mimetype == "text/html" and answer.status_code != 303:
            yield (
                f"{method} {path.replace(house.facts['key_id'], 'KEY')} {names}",
                Shown(answer.status_code, Page(answer.text)),
            )
    stranger = house.browser()
    answer = stranger.ask("GET", "/login", query_string={"next": text})
    yield "sign in", Shown(answer.status_code, Page(answer.text))
    answer = stranger.post("/login", {"name": text[:400], "password": text, "next": text})
    yield "wrong password", Shown(answer.status_code, Page(answer.text))


def structure(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    """Give what a page is made of, without what it says, or which of the options is chosen."""
    return [(tag, tuple(each for each in attributes if each != "selected")) for tag, attributes in page.elements]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> dict[str, Shown]:
    """Every page, with a text that is like any other."""
    with open_house(tmp_path_factory.mktemp("plain") / "data", compiled) as house, serving(stocked(house, PLAIN)):
        return dict(shown(house, PLAIN))


def flat(text: str) -> str:
    return " ".join(text.split())


def everything(page: Page) -> str:
    """Give all that a page says, in its text and in its attributes."""
    values = [value for _, attributes in page.elements for value in attributes.values() if value]
    return flat(" ".join([page.text, *values]))


# Where each text must be read, or the comparison would be of pages that hold nothing.
READ_ON = [
    "GET /admin/keys []",
    "GET /admin/models/churn []",
    "GET /admin/models/churn/versions/1 []",
    "GET /admin/models/churn/versions/1/signature []",
    "GET /admin/models/churn/versions/1/try []",
    "GET /admin/models/texts/versions/1 []",
    "GET /admin/models/texts/versions/1/signature []",
    "GET /admin/predictions/00000000000000000000000000000000-0 []",
    "GET /admin/predictions/00000000000000000000000000000003-0 []",
    "GET /admin/jobs []",
    "GET /admin/drift []",
    "GET /admin/alerts/1 []",
    "GET /admin/webhooks []",
    "GET /admin/predictions/exports []",
    "GET /admin/system []",
    "GET /admin/audit []",
    "GET /admin []",
    "GET /admin/users/mara []",
    "POST /admin/models/churn/versions/1/try ['f0', 'f1']",
]


@pytest.mark.parametrize("text", PAYLOADS.values(), ids=PAYLOADS)
def test_a_text_makes_no_element_and_no_attribute_wherever_it_is_shown(
    house: House, plain: dict[str, Shown], text: str
) -> None:
    with serving(stocked(house, text)):
        pages = dict(shown(house, text))
    assert len(pages.keys() & plain.keys()) > 60
    known = {element for each in plain.values() for element in structure(each.page)}
    for name, each in pages.items():
        made_of = structure(each.page)
        assert set(made_of) <= known, name
        # A text in an address can lead to another page; where it does not, even the order is the same. One that is cut
        # off finds nothing.
        if name in plain and plain[name].status == each.status and (len(text) < MOST_LOOKED_FOR or "[]" in name):
            assert made_of == structure(plain[name].page), name
        assert harmless(each.page), name
    for name in READ_ON:
        assert flat(text)[: 50 if len(text) > 500 else None] in everything(pages[name].page), name


def harmless(page: Page) -> bool:
    """Whether nothing on a page runs or leads elsewhere."""
    for _, attributes in page.elements:
        for attribute in ("href", "src", "action", "formaction", "hx-get"):
            assert not (attributes.get(attribute) or "").lower().strip().startswith(("javascript:", "//"))
        assert not [each for each in attributes if each.startswith("on")]
    return not {"script", "style"} & {inside for inside, data in page.texts if data.strip()}


def test_the_pages_that_are_compared_do_show_the_text(plain: dict[str, Shown]) -> None:
    assert [name for name in READ_ON if PLAIN not in everything(plain[name].page)] == []
    silent = [name for name, each in plain.items() if PLAIN not in everything(each.page)]
    assert len(silent) < len(plain) / 2, silent


# --- Files that are taken away -------------------------------------------------------------------------------

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://evil.example","x")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "=",
    "-",
]


def exported(house: House) -> list[dict[str, str]]:
    answer = house.operator.get("/admin/predictions/export/csv")
    assert answer.status_code == 200
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_no_cell_of_an_export_is_a_formula(house: House) -> None:
    for number, formula in enumerate(FORMULAS):
        texts = ("prediction", "model_version", "source", "key_id", "client_id", "request_id")
        more: dict[str, Any] = dict.fromkeys(texts, formula)
        house.prediction(number, **more, instance={formula: formula}, warnings=[{"message": formula}])
    house.prediction(len(FORMULAS), prediction={"=a": "=b"}, probability={"=a": -0.5})
    house.prediction(len(FORMULAS) + 1, prediction=-1.5, probability=None)
    rows = exported(house)
    assert len(rows) == len(FORMULAS) + 2
    for row in rows:
        for cell in row.values():
            assert is_number(cell) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), row
    by_id = {row["prediction_id"]: row for row in rows}
    for number, formula in enumerate(FORMULAS):
        row = by_id[f"{number:032x}-0"]
        assert row["prediction"] == f"'{formula}"
        assert json.loads(row["instance"]) == {formula: formula}
    assert by_id[f"{len(FORMULAS) + 1:032x}-0"]["prediction"] == "-1.5"


def test_an_export_holds_every_text_in_its_own_cell(house: House) -> None:
    texts = {text for each in PAYLOADS.values() for text in (each, f"{each}\r\nnew,row,\"'")}
    for number, text in enumerate(texts):
        prediction(house, number, text)
    rows = exported(house)
    assert {len(row) for row in rows} == {len(files.COLUMNS)}
    assert {row["prediction"] for row in rows} == texts, "none of these begins like a formula"
    answer = house.operator.get("/admin/predictions/export/jsonl")
    lines = [json.loads(line) for line in answer.text.split("\n") if line]
    assert {line["prediction"] for line in lines} == texts


# --- The log ------------------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[Callable[[], list[str]]]:
    """Give what a process writes to its log, line by line."""
    stream = io.StringIO()
    configured = logs.configuration("debug")
    maker = logging.config.DictConfigurator({"version": 1})
    handler = logging.StreamHandler(stream)
    handler.setFormatter(maker.configure_custom(dict(configured["formatters"]["json"])))
    handler.addFilter(logs.WithoutKeys())
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: stream.getvalue().split("\n")[:-1]
    root.removeHandler(handler)
    root.setLevel(before)


def test_no_text_breaks_a_line_of_the_log(new_house: Callable[..., House], written: Callable[[], list[str]]) -> None:
    house = new_house(trusted_proxies=1)
    house.user("mara", "admin")
    browser = house.sign_in("mara")
    for text in PAYLOADS.values():
        header = wire("".join(each for each in text if each not in "\r\n"))
        for name in ("X-Request-ID", "User-Agent", "Referer", "X-Forwarded-For"):
            browser.ask("GET", "/admin/keys", headers={name: header}, query_string={"q": text})
        browser.ask("GET", "/admin", environ_overrides={"PATH_INFO": f"/admin/{wire(text)}"})
        browser.ask("GET", "/admin", environ_overrides={"REQUEST_METHOD": header[:40]})
        browser.post("/login", {"name": text, "password": text})
        browser.post("/admin/keys", {"nonce": text, "name": text})
    lines = written()
    assert len(lines) >= 9 * len(PAYLOADS)
    for line in lines:
        assert json.loads(line)["level"]
        assert line.isascii()
        assert line.isprintable(), "no escape, no return, no line within a line"


def test_a_request_id_of_a_proxy_is_taken_only_when_it_is_one(new_house: Callable[..., House]) -> None:
    house = new_house(trusted_proxies=1)
    for given, taken in (("a" * 8, True), ("abc_DEF-123", True), ("short", False), ("<script>alert(1)", False)):
        answer = house.browser().get("/login", {"X-Request-ID": given})
        assert (answer.headers["X-Request-ID"] == given) is taken
    assert house.browser().get("/login", {"X-Request-ID": "a" * 65}).headers["X-Request-ID"] != "a" * 65


# --- Names of files -----------------------------------------------------------------------------------------

FILE_NAMES = {
    "../../../etc/passwd": "passwd",
    "/etc/cron.d/evil": "evil",
    "model\x1b[2J.joblib": "model[2J.joblib",
    "model\u202egpj.joblib": "modelgpj.joblib",
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "x" * 4000: "x" * 100,
    "/": "file",
    ".": ".",
    "..": "..",
    "CON": "CON",
}


@pytest.mark.parametrize(("name", "label"), FILE_NAMES.items(), ids=[name[:30] for name in FILE_NAMES])
def test_the_name_of_a_file_is_a_label_and_no_path(house: House, name: str, label: str) -> None:
    browser = house.operator
    fields = browser.page("/admin/upload").fields("/admin/upload")
    answer = browser.post("/admin/upload", {**fields, "model": "new", "file": (io.BytesIO(b"x"), name)})
    assert answer.status_code == 303, Page(answer.text).text
    upload_id = answer.location.rpartition("/")[2]
    pending = house.look(lambda session: waiting.get_upload(session, upload_id))
    assert pending.names == {"file": label}
    folder = house.settings.quarantine_dir
    assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))] == [
        upload_id,
        f"{upload_id}/file",
    ]
    assert flat(label) in browser.page(answer.location).text


def test_who_signs_in_from_an_address_that_is_none_is_still_counted(house: House) -> None:
    """A proxy that is trusted passes on what it was told."""
    house.user("mara", "admin", hashed_password())
    for number in range(6):
        browser = Browser(house.app, f"<script>{number}")
        answer = browser.post("/login", {"name": "mara", "password": "x"})
    assert answer.status_code == 429


def test_a_record_that_names_what_formats_know_is_read_as_it_stands(house: House) -> None:
    for detail in ({"subject": "other"}, {"name": "{subject}"}, {"to_number": "{0.__class__}"}, {"self": 1}):
        house.change(lambda session, detail=detail: session.add(record(detail)))
    page = house.operator.page("/admin/audit")
    assert "{0.__class__}" in page.text
    assert "class '" not in page.text


def record(detail: dict[str, Any]) -> audit.AuditRecord:
    now = users.now()
    action = "models.activate"
    return audit.AuditRecord(
        at=now, actor=TESTER.name, address="", request_id="", action=action, subject="churn", detail=detail
    )
