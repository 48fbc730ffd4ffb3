"""`modelport models`: upload, look, activate, roll back."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from webapp import activation, artifacts, config, fleet, intake, registry, storage, uploads
from webapp.activation import Asked, Back, Convergence, Switched
from webapp.catalog import Catalog, ServedVersion
from webapp.cli import Console, Group, pass_console
from webapp.errors import Invalid, NotFound, Unavailable
from webapp.intake import Upload
from webapp.serving import compare as side_by_side
from webapp.serving.runtime import Runtime
from webapp.signature import describe, from_dict
from webapp.uploads import Desk, Uploaded, Wish

FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group("models", cls=Group)
def group() -> None:
    """Upload, look at, activate and roll back model versions."""


@group.command()
@click.argument("file", type=FILE)
@click.option("--name", required=True, help="The model that gets a new version; made when it is the first.")
@click.option("--scaler", type=FILE, help="A fitted transformer that goes before the estimator.")
@click.option("--reference", type=FILE, help="CSV with training data: names, types and observed ranges come from it.")
@click.option("--target", help="The reference's column that is the target.")
@click.option("--expect", type=FILE, help="CSV of rows with the outputs that they must give, from the training side.")
@click.option("--metadata", type=FILE, help="JSON with features, accuracy and whatever else the card should hold.")
@click.option("--label", help="What answers call the version instead of its number.")
@click.option("--activate", is_flag=True, help="Make it the active version at once.")
@pass_console
def upload(  # noqa: PLR0913 - one parameter per option
    console: Console,
    file: Path,
    name: str,
    scaler: Path | None,
    reference: Path | None,
    target: str | None,
    expect: Path | None,
    metadata: Path | None,
    label: str | None,
    activate: bool,  # noqa: FBT001 - click's interface
) -> None:
    """Upload FILE (.skops, .joblib or .pkl) as the next version of a model."""
    read = intake.read_metadata(metadata) if metadata else {}
    files = Upload(file, scaler, reference, target, read, expect=expect)
    if sys.stderr.isatty():
        click.echo("Reading the file in a locked process and trying the model …", err=True)
    done = uploads.upload(desk(console), console.actor, Wish(name, label, target, activate), files)
    console.answer(_document(done), _sentence(done))


def desk(console: Console) -> Desk:
    """Give the place where this command's uploads are taken in."""
    return Desk(console.settings, console.database, artifacts.opened(console.settings))


def _document(done: Uploaded) -> dict[str, Any]:
    workers = {"workers": done.workers.describe()} if done.workers else {}
    refused = {"not_activated": done.not_activated} if done.not_activated else {}
    return {**done.version, "report": done.report, **workers, **refused}


def _sentence(done: Uploaded) -> str:
    version = done.version
    normalised = done.report["normalised"]
    lines = [f"{version['model']} version {version['version']} is stored, {version['state']}."]
    if normalised:
        lines.append(f"Set to what is served: {', '.join(normalised)}.")
    if "no_reference" in done.report["notes"]:
        lines.append("No reference was given: nothing is known of usual values, so no warnings will be given.")
    if done.not_activated:
        lines.append(f"It was not activated: {done.not_activated}")
    if version["state"] == "inactive":
        lines.append(f"Activate it: modelport models activate {version['model']} {version['version']}")
    return "\n".join(lines)


@group.command("import-folder")
@click.argument("folder", type=FOLDER)
@click.option("--name", required=True, help="The model that gets the versions.")
@pass_console
def import_folder(console: Console, folder: Path, name: str) -> None:
    """Upload every version of FOLDER/<timestamp>/{model.pkl, scaler.pkl, metadata.json}, the oldest first."""
    found = sorted(path.parent for path in folder.glob("*/model.pkl"))
    if not found:
        raise Invalid("folder_without_versions", f"{folder} holds no <timestamp>/model.pkl.")
    done = [uploads.upload(desk(console), console.actor, Wish(name, path.name), _from_folder(path)) for path in found]
    versions = [each.version for each in done]
    console.answer({"model": name, "versions": versions}, "\n".join(_sentence(each) for each in done))


def _from_folder(folder: Path) -> Upload:
    scaler, metadata = folder / "scaler.pkl", folder / "metadata.json"
    read = intake.read_metadata(metadata) if metadata.exists() else {}
    return Upload(folder / "model.pkl", scaler if scaler.exists() else None, metadata=read)


@group.command("list")
@pass_console
def list_models(console: Console) -> None:
    """List the models."""
    with console.database.reading() as session:
        found = [registry.describe_model(model) for model in registry.all_models(session)]
    lines = [f"{model['name']}: active {model['active_version'] or 'none'} of {model['versions']}" for model in found]
    console.answer({"models": found}, "\n".join(lines) or "There are no models yet; upload one.")


@group.command()
@click.argument("name")
@click.option("--as-of", metavar="MOMENT", help="Say first what was active then: 2026-03-03 or 2026-03-03T12:00:00Z.")
@pass_console
def show(console: Console, name: str, as_of: str | None) -> None:
    """Show a model's versions, what the newest takes and gives, and the history of the active one."""
    moment = registry.read_moment(as_of) if as_of else None
    with console.database.reading() as session:
        model = registry.get_model(session, name)
        versions = [
            {**registry.describe_version(version), "computed_by": fleet.computed_by(session, name, version.number)}
            for version in model.versions
        ]
        history = [registry.describe_activation(each) for each in registry.history(session, model)]
        newest = from_dict(model.versions[-1].signature)
        then = {"as_of": registry.describe_as_of(session, model, moment)} if moment else {}
    lines = [_as_of(found, moment) for found in then.values() if moment]
    lines += [
        f"version {each['version']} ({each['label'] or 'no label'}), {each['state']},"
        f" {each['created_at'][:19]} by {each['created_by']}"
        f"{', computed by ' if each['computed_by'] else ''}{each['computed_by'] or ''}"
        for each in versions
    ]
    lines += [f"version {versions[-1]['version']} takes and gives:", *describe(newest)]
    lines += [
        f"{each['at'][:19]} {each['actor']}: {each['act']} {each['from_version'] or 'none'} -> {each['version']}"
        f"{': ' if each['reason'] else ''}{each['reason']}"
        for each in history
    ]
    document = {"name": name, "versions": versions, "history": history, "signature": newest.as_dict()}
    console.answer({**document, **then}, "\n".join(lines))


def _as_of(found: dict[str, Any] | None, moment: datetime) -> str:
    asked = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    if found is None:
        return f"On {asked} no version was active."
    why = f": {found['reason']}" if found["reason"] else "."
    return (
        f"On {asked} version {found['active_version']} was active, since {found['since'][:19]} by {found['actor']}{why}"
    )


@group.command()
@click.argument("name")
@click.argument("from_version", metavar="FROM")
@click.argument("to_version", metavar="TO")
@pass_console
def compare(console: Console, name: str, from_version: str, to_version: str) -> None:
    """Compare two versions (numbers or labels) of the model NAME: inputs, parameters, predictions, speed."""
    with console.database.reading() as session:
        pair = registry.to_compare(session, name, from_version, to_version)
        model = registry.catalog(session).models[name]
    store = artifacts.opened(console.settings)
    runtime = Runtime(store, console.settings.derive("versions"), on_load=lambda _loaded: None)
    # Nothing is active here, so that nothing is loaded but the two.
    runtime.switch(Catalog(models={name: replace(model, active=None)}))
    old, new = (
        side_by_side.Side(runtime.served(name, each.number), each.card, each.report, each.created_at, each.created_by)
        for each in (pair.old, pair.new)
    )
    references = {number: store.get(digest) for number, digest in pair.references.items()}
    found = side_by_side.compare(old, new, references)
    console.answer(found.as_dict(), "\n".join(side_by_side.lines(found)))


@group.command()
@click.argument("name")
@click.argument("version")
@click.option("--reason", default="", help="Why; kept in the history.")
@click.option("--confirm", default="", metavar="NAME", help="The model's name: requests that work may be refused.")
@click.option("--accept-trained-with", default="", metavar="X.Y.Z", help="The other scikit-learn that trained it.")
@pass_console
def activate(console: Console, name: str, version: str, reason: str, confirm: str, accept_trained_with: str) -> None:
    """Make VERSION (a number or label) of the model NAME the one that answers, once every worker has loaded it."""
    with console.database.reading() as session:
        number = registry.number_of(session, name, version)
    asked = Asked(name, number, reason, confirm, accept_trained_with)
    done = activation.activate(console.database, desk(console).load, console.actor, asked)
    _answer_switch(console, name, done)


@group.command()
@click.argument("name")
@click.option("--reason", default="", help="Why; kept in the history.")
@pass_console
def rollback(console: Console, name: str, reason: str) -> None:
    """Return the model NAME to the version that was active before."""
    done = activation.rollback(console.database, desk(console).load, console.actor, Back(name, reason))
    _answer_switch(console, name, done)


def _answer_switch(console: Console, name: str, switched: Switched) -> None:
    done = switched.activation
    text = f"{name} {done['from_version'] or 'none'} -> {done['version']}. {_workers(switched.workers)}"
    console.answer({"model": name, **done, "workers": switched.workers.describe()}, text)


def _workers(state: Convergence) -> str:
    if not state.total:
        return "No web worker runs; the version was prepared here."
    said = f"{state.switched} of {state.total} web workers serve it."
    return " ".join((said, *state.failures))


@group.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Every version of every model.")
@pass_console
def verify(console: Console, name: str | None, every: bool) -> None:  # noqa: FBT001 - click's interface
    """Load the stored versions of the model NAME, or of all, and check their golden rows under what is installed.

    Run it after an upgrade of the libraries, before the server is started with them.
    """
    if (name is None) != every:
        raise click.UsageError("Name a model, or say --all.")
    with console.database.reading() as session:
        names = (
            [model.name for model in registry.all_models(session)]
            if every
            else [registry.get_model(session, name or "").name]
        )
        catalog = registry.catalog(session)
        reports = {each: registry.damaged_reports(session, each) for each in names}
    found = [
        _verified(console, version, reports[each])
        for each in names
        for version in catalog.models[each].versions.values()
    ]
    bad = sum(bool(each["failure"]) for each in found)
    lines = [f"{each['model']} {each['version']}: {each['failure'] or each['checked']}" for each in found]
    lines.append(f"{len(found) - bad} of {len(found)} versions can be served.")
    console.answer({"versions": found, "failed": bad}, "\n".join(lines))
    if bad:
        sys.exit(1)


def _place(_context: click.Context, _parameter: click.Parameter, given: str) -> str:
    try:
        return config.artifact_place(given) or ""
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@group.command("copy-artifacts")
@click.argument("place", callback=_place)
@pass_console
def copy_artifacts(console: Console, place: str) -> None:
    """Copy what every version needs to PLACE: a folder, or a URL such as s3://BUCKET/PREFIX.

    What is there already and whole stays. Afterwards MODELPORT_ARTIFACT_STORE can name that place.
    """
    source, target = artifacts.opened(console.settings), storage.made(place)
    with console.database.reading() as session:
        digests = sorted(registry.every_artifact(session))
    copied, failures = 0, []
    for digest in digests:
        try:
            copied += artifacts.copy(source, target, digest)
        except NotFound as missing:
            failures.append(missing.detail)
        except Unavailable as unavailable:
            if unavailable.code in storage.AWAY:
                raise
            failures.append(unavailable.detail)
    present = len(digests) - copied - len(failures)
    lines = [*failures, f"{copied} files were copied, {present} were there already, {len(failures)} cannot be copied."]
    console.answer({"copied": copied, "present": present, "failures": failures}, "\n".join(lines))
    if failures:
        sys.exit(1)


def _verified(console: Console, version: ServedVersion, damaged_reports: set[int]) -> dict[str, Any]:
    failure = desk(console).load(version)
    if not failure and version.number in damaged_reports:
        failure = "Its report is not what was stored."
    checked = "loads, and answers its golden rows as before" if version.golden else "loads; it has no golden rows"
    return {"model": version.model, "version": version.number, "failure": failure, "checked": checked}
