"""Tests of the script that keeps the front-end files of others, on a copy of them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BOOTSTRAP = Path("static/vendor/bootstrap@5.3.9")


@pytest.fixture(scope="module")
def vendor() -> ModuleType:
    """The script, which is in no package."""
    spec = importlib.util.spec_from_file_location("vendor", ROOT / "scripts" / "vendor.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(vendor: ModuleType, tmp_path: Path) -> Path:
    """A copy of the vendor folders."""
    for folder in vendor.FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_the_tree_holds_what_was_published(vendor: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert vendor.main(["check"]) == 0
    assert "0 problems" in capsys.readouterr().out


def test_a_changed_byte_is_found(vendor: ModuleType, tree: Path) -> None:
    style = tree / BOOTSTRAP / "bootstrap.min.css"
    content = bytearray(style.read_bytes())
    content[1000] ^= 1
    style.write_bytes(content)
    assert vendor.problems(tree) == [
        f"{BOOTSTRAP}/bootstrap.min.css: is not the file that bootstrap 5.3.9 published",
    ]
    assert vendor.main(["check"], tree) == 1


def test_a_missing_file_is_found(vendor: ModuleType, tree: Path) -> None:
    (tree / BOOTSTRAP / "bootstrap.min.css").unlink()
    assert vendor.problems(tree) == [f"{BOOTSTRAP}/bootstrap.min.css: is missing"]


@pytest.mark.parametrize("stray", ["static/vendor/jquery.js", f"{BOOTSTRAP}/.hidden/x.js", "tests/vendor/axe.js"])
def test_a_stray_file_is_found(vendor: ModuleType, tree: Path, stray: str) -> None:
    (tree / stray).parent.mkdir(exist_ok=True)
    (tree / stray).write_text("alert(1)")
    assert vendor.problems(tree) == [f"{stray}: is not in the manifest"]


def test_a_missing_licence_is_found(vendor: ModuleType, tree: Path) -> None:
    (tree / BOOTSTRAP / "LICENSE").unlink()
    assert vendor.problems(tree) == [f"{BOOTSTRAP}/LICENSE: is missing"]


def test_a_licence_that_the_manifest_leaves_out_is_found(vendor: ModuleType, tree: Path) -> None:
    (tree / BOOTSTRAP / "LICENSE").unlink()
    rest = [each for each in vendor.entries(tree) if each.here != f"{BOOTSTRAP}/LICENSE"]
    (tree / vendor.MANIFEST).write_text("".join(map(str, rest)))
    assert vendor.problems(tree) == [f"{BOOTSTRAP}: has no LICENSE in the manifest"]


def test_an_update_puts_back_what_was_published(
    vendor: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {(each.package, each.inside): (ROOT / each.here).read_bytes() for each in vendor.entries(ROOT)}

    def published(package: str, version: str) -> dict[str, bytes]:
        return {inside: content for (of, inside), content in kept.items() if of == package}

    monkeypatch.setattr(vendor, "published", published)
    shutil.rmtree(tree / BOOTSTRAP)
    assert vendor.main(["update"], tree) == 0
    assert (tree / vendor.MANIFEST).read_text() == (ROOT / vendor.MANIFEST).read_text()


def test_other_words_are_not_understood(vendor: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert vendor.main([]) == 2
    assert vendor.main(["chekc"]) == 2
    assert "check|update" in capsys.readouterr().out
