"""Takes the pictures of the admin UI in docs/screenshots/: `python -m scripts.screenshots [--all FOLDER]`.

It serves the demo from a temporary folder, gives it a day's traffic and a second version, and looks at it in Chromium.
`--all` writes every page in every look into FOLDER too, in full length.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect

from tests.conftest import eventually
from tests.functional.browser import chromium, sign_in, window
from tests.functional.server import Server
from webapp import config
from webapp.cli import demo
from webapp.db import Database
from webapp.predictions import traffic

README = Path(__file__).parent.parent / "docs" / "screenshots"
MODEL = "credit-risk"
PREDICTIONS, BATCH = 220, 120
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 760}
LOOKS = {"light": (WIDE, "light"), "dark": (WIDE, "dark"), "phone": (PHONE, "light"), "phone-dark": (PHONE, "dark")}
# What a README shows.
BEST = ("dashboard-light", "version-light", "predictions-light", "prediction-dark", "dashboard-phone")
KEYS = (
    ("mobile-app", "--owner", "App team", "--model", MODEL),
    ("web-shop", "--owner", "Ada Lovelace", "--rate-limit", "2000/minute"),
    ("nightly-scores", "--owner", "Data team", "--scope", "predict", "--scope", "batch"),
    ("partner-trial", "--owner", "Sales", "--expires", "5d", "--test"),
)
CARD = {
    **demo.METADATA,
    "description": "Retrained on the autumn's applications.",
    "features": [
        {"name": "age", "type": "integer", "minimum": 18, "maximum": 100, "message": "Only adults can apply."},
        {"name": "income", "type": "number", "minimum": 1000, "maximum": 1_000_000},
        {"name": "credit_score", "type": "integer", "minimum": 300, "maximum": 850},
    ],
    "accuracy": 0.781,
}


def main() -> None:
    """Take the pictures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--all", type=Path, metavar="FOLDER", help="write every page in every look here, too")
    everything = options.parse_args().all
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as server, chromium() as browser:
        link = server.cli("users", "create", "mara", "--role", "admin")["link"]
        with window(browser, server, viewport=WIDE) as context:
            pages = act(context.new_page(), server, link, Path(name))
            cookies = context.cookies()
        for look in LOOKS:
            take(browser, server, cookies, pages, look, everything)


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Run the demo."""
    server = Server(folder / "data", rate_limit="10000/minute", workers=2)
    server.cli("demo")
    try:
        yield server.start()
    finally:
        server.stop()


def act(page: Page, server: Server, link: str, folder: Path) -> dict[str, str]:
    """Live through a day; give the pages to look at."""
    sign_in(page, link)
    set_password(page)
    made = [server.cli("keys", "create", *key) for key in KEYS]
    ids = predict(server, [key["key"] for key in made[:3]])
    server.logged(ids[-1])
    spread(server)
    upload(page, folder)
    unusual = server.post(
        f"/models/{MODEL}/predict", {"age": 23, "income": 310_000, "credit_score": 812}, made[1]["key"]
    )
    prediction = unusual.json()["prediction_id"]
    server.logged(prediction)
    return {
        "sign-in": "/login",
        "dashboard": "/admin",
        "models": "/admin/models",
        "model": f"/admin/models/{MODEL}",
        "version": f"/admin/models/{MODEL}/versions/2",
        "active-version": f"/admin/models/{MODEL}/versions/1",
        "signature": f"/admin/models/{MODEL}/versions/2/signature",
        "upload": "/admin/upload",
        "try": f"/admin/models/{MODEL}/versions/1/try",
        "jobs": "/admin/jobs",
        "predictions": "/admin/predictions",
        "prediction": f"/admin/predictions/{prediction}",
        "keys": "/admin/keys",
        "key": f"/admin/keys/{made[1]['id']}",
        "new-key": "/admin/keys/new",
        "revoke": f"/admin/keys/{made[0]['id']}/revoke",
        "users": "/admin/users",
        "user": "/admin/users/admin",
        "account": "/admin/account",
        "codes": "/admin/account/codes",
        "audit": "/admin/audit",
        "system": "/admin/system",
        "not-found": "/admin/nothing",
    }


def set_password(page: Page) -> None:
    """Have no note about a missing one."""
    page.goto("/admin/account")
    for label in ("New password", "New password once more"):
        page.get_by_label(label, exact=True).fill("amber kettle northern drift")
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_text("Your password is set.")).to_be_visible()


def predict(server: Server, keys: list[str]) -> list[str]:
    """Ask about people like those that the demo was trained on."""
    people, _ = demo.rows()
    sent = json.loads(people.sample(PREDICTIONS, random_state=1).to_json(orient="records"))
    answers = [server.post(f"/models/{MODEL}/predict", each, keys[at % len(keys)]) for at, each in enumerate(sent)]
    batch = {"instances": sent[:BATCH]}
    assert server.post(f"/models/{MODEL}/predict/batch", batch, keys[2]).ok
    eventually(lambda: server.rows("SELECT id FROM predictions WHERE source = 'batch'")[BATCH - 1 :])
    return [answer.json()["prediction_id"] for answer in answers]


def spread(server: Server) -> None:
    """Let what was asked in a minute have been asked over a day, more of it in the afternoon."""
    random, now = np.random.default_rng(1), datetime.now(UTC)
    database = Database(config.prepare(config.load(server.environment)).sqlalchemy_url)
    log = sa.table("predictions", sa.column("at", sa.Text), sa.column("id", sa.Text))
    with database.transaction() as session:
        rows = session.execute(sa.text("SELECT * FROM predictions")).mappings().all()
        moments = [now - timedelta(hours=float(hours)) for hours in random.beta(1.2, 2.2, len(rows)) * 23]
        for row, moment in zip(rows, moments, strict=True):
            session.execute(
                log.update().where(log.c.id == row["id"]).values(at=moment.strftime("%Y-%m-%d %H:%M:%S.%f"))
            )
        session.execute(sa.text("DELETE FROM hourly_traffic"))
        session.execute(sa.text("DELETE FROM key_traffic"))
        told = [
            {**row, "at": moment, "warnings": json.loads(row["warnings"])}
            for row, moment in zip(rows, moments, strict=True)
        ]
        traffic.count(session, told)
    database.engine.dispose()


def upload(page: Page, folder: Path) -> None:
    """Upload a second version by the form."""
    people, paid = demo.rows()
    skops.io.dump(demo.train(people, paid), folder / "autumn.skops")
    people.to_csv(folder / "autumn.csv", index=False)
    (folder / "card.json").write_text(json.dumps(CARD))
    page.goto(f"/admin/upload?model={MODEL}")
    page.get_by_label("Model file").set_input_files(folder / "autumn.skops")
    page.get_by_label("Training data").set_input_files(folder / "autumn.csv")
    page.get_by_text("More: target column").click()
    page.get_by_label("Label", exact=True).fill("2026-autumn")
    page.get_by_label("Metadata").set_input_files(folder / "card.json")
    page.get_by_role("button", name="Upload model").click()
    expect(page.get_by_role("heading", name=f"{MODEL} v2")).to_be_visible()


def take(
    browser: Browser, server: Server, cookies: list[Any], pages: dict[str, str], look: str, everything: Path | None
) -> None:
    """Take the pictures of one look."""
    viewport, theme = LOOKS[look]
    with window(browser, server, viewport=viewport, color_scheme=theme, reduced_motion="reduce") as context:
        page = context.new_page()
        for name, path in pages.items():
            context.clear_cookies()
            if name != "sign-in":
                context.add_cookies(cookies)
            page.goto(path)
            if f"{name}-{look}" in BEST:
                picture(page, README / f"{name}-{look}.png", whole=False)
            if everything:
                picture(page, everything / f"{name}-{look}.png", whole=True)


def picture(page: Page, file: Path, *, whole: bool) -> None:
    """Write what the window shows, or the whole page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file, full_page=whole)
    print(f"{file}: {file.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
