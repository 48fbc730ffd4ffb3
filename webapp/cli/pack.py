"""`modelport pack`: an estimator, its reference and its expected outputs become one file, where it was trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import click

from webapp.cli import Command, Console, pass_console
from webapp.errors import Conflict, Invalid

# Run as a program of its own: nothing of this process opens a model's file.
SCRIPT = Path(__file__).parents[1] / "pack.py"
FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
OUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command("pack", cls=Command)
@click.argument("file", type=FILE, required=False)
@click.option("--reference", type=FILE, help="CSV with training data.")
@click.option("--target", help="The reference's column that is the target.")
@click.option("--rows", type=click.IntRange(1), default=200, show_default=True, help="Rows that get expected outputs.")
@click.option("--metadata", type=FILE, help="JSON with features, accuracy and whatever else the card should hold.")
@click.option("-o", "--out", type=OUT, help="The file to write, such as model.zip.")
@click.option(
    "--script",
    type=OUT,
    is_flag=False,
    flag_value="pack.py",
    help="Write the program that packs to this path (pack.py), to be copied to where the model was trained.",
)
@pass_console
def pack(  # noqa: PLR0913 - one parameter per option
    console: Console,
    file: Path | None,
    reference: Path | None,
    target: str | None,
    rows: int,
    metadata: Path | None,
    out: Path | None,
    script: Path | None,
) -> None:
    """Pack FILE (.joblib or .pkl), a reference and what the estimator gives for it, for an upload elsewhere.

    Run it where the model was trained, with the same scikit-learn. FILE is opened without a lock, as the user who runs
    this, and a model file can run anything when it is opened: pack only what is your own. Where Modelport cannot be
    installed beside the scikit-learn of the training, write the program with --script and copy it there.
    """
    if script is not None:
        if file is not None:
            raise click.UsageError("--script writes the program and packs nothing; leave out FILE.")
        _write_script(console, script)
    elif file is None or reference is None or out is None:
        raise click.UsageError("FILE, --reference and --out are needed, or --script alone.")
    else:
        given = {"--reference": reference, "--target": target, "--rows": rows, "--metadata": metadata, "--out": out}
        said = _run([str(file), *(f"{name}={value}" for name, value in given.items() if value is not None)])
        with ZipFile(out) as archive:
            about = json.loads(archive.read("modelport.json"))
        console.answer({"file": str(out), **about}, said)


def _write_script(console: Console, path: Path) -> None:
    if path.exists():
        raise Conflict("file_exists", f"{path} is there already; name another path.")
    shutil.copyfile(SCRIPT, path)
    text = f"{path} is written. Where the model was trained: python {path.name} --help"
    console.answer({"file": str(path)}, text)


def _run(arguments: list[str]) -> str:
    # Without -P the modules beside the program could be taken for those that a model's file names.
    command = [sys.executable, "-P", str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        said = done.stderr.strip() or f"The program ended with code {done.returncode}."
        raise Invalid("pack_failed", said.splitlines()[-1])
    return done.stdout.strip()
