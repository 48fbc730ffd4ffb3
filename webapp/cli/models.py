"""`modelport models`: upload, look, activate, roll back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from webapp import activation, intake, registry, uploads
from webapp.activation import Convergence
from webapp.artifacts import ArtifactStore
from webapp.cli import Console, Group, pass_console
from webapp.errors import Invalid
from webapp.intake import Upload
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
    metadata: Path | None,
    label: str | None,
    activate: bool,  # noqa: FBT001 - click's interface
) -> None:
    """Upload FILE (.skops, .joblib or .pkl) as the next version of a model."""
    read = intake.read_metadata(metadata) if metadata else {}
    files = Upload(file, scaler, reference, target, read)
    if sys.stderr.isatty():
        click.echo("Reading the file in a locked process and trying the model …", err=True)
    done = uploads.upload(desk(console), console.actor, Wish(name, label, target, activate), files)
    console.answer(_document(done), _sentence(done))


def desk(console: Console) -> Desk:
    """Give the place where this command's uploads are taken in."""
    return Desk(console.settings, console.database, ArtifactStore(console.settings.artifact_store))


def _document(done: Uploaded) -> dict[str, Any]:
    workers = {"workers": done.workers.describe()} if done.workers else {}
    return {**done.version, "report": done.report, **workers}


def _sentence(done: Uploaded) -> str:
    version = done.version
    normalised = done.report["normalised"]
    lines = [f"{version['model']} version {version['version']} is stored, {version['state']}."]
    if normalised:
        lines.append(f"Set to what is served: {', '.join(normalised)}.")
    if "no_reference" in done.report["notes"]:
        lines.append("No reference was given: nothing is known of usual values, so no warnings will be given.")
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
@pass_console
def show(console: Console, name: str) -> None:
    """Show a model's versions, what the newest takes and gives, and the history of the active one."""
    with console.database.reading() as session:
        model = registry.get_model(session, name)
        versions = [registry.describe_version(version) for version in model.versions]
        history = [registry.describe_activation(each) for each in registry.history(session, model)]
        newest = from_dict(model.versions[-1].signature)
    lines = [
        f"version {each['version']} ({each['label'] or 'no label'}), {each['state']},"
        f" {each['created_at'][:19]} by {each['created_by']}"
        for each in versions
    ]
    lines += [f"version {versions[-1]['version']} takes and gives:", *describe(newest)]
    lines += [
        f"{each['at'][:19]} {each['actor']}: {each['act']} {each['from_version'] or 'none'} -> {each['version']}"
        f"{': ' if each['reason'] else ''}{each['reason']}"
        for each in history
    ]
    document = {"name": name, "versions": versions, "history": history, "signature": newest.as_dict()}
    console.answer(document, "\n".join(lines))


@group.command()
@click.argument("name")
@click.argument("version")
@click.option("--reason", default="", help="Why; kept in the history.")
@pass_console
def activate(console: Console, name: str, version: str, reason: str) -> None:
    """Make VERSION (a number or label) of the model NAME the one that answers."""
    with console.database.transaction() as session:
        number = registry.number_of(session, name, version)
        done = registry.activate(session, console.actor, name, number, reason)
    _answer_switch(console, name, registry.describe_activation(done))


@group.command()
@click.argument("name")
@click.option("--reason", default="", help="Why; kept in the history.")
@pass_console
def rollback(console: Console, name: str, reason: str) -> None:
    """Return the model NAME to the version that was active before."""
    with console.database.transaction() as session:
        done = registry.rollback(session, console.actor, name, reason)
    _answer_switch(console, name, registry.describe_activation(done))


def _answer_switch(console: Console, name: str, done: dict[str, Any]) -> None:
    workers = activation.converged(console.database)
    text = f"{name} {done['from_version'] or 'none'} -> {done['version']}. {_workers(workers)}"
    console.answer({"model": name, **done, "workers": workers.describe()}, text)


def _workers(state: Convergence) -> str:
    if not state.total:
        return "No web worker runs."
    said = f"{state.switched} of {state.total} web workers serve it."
    return " ".join((said, *state.failures))
