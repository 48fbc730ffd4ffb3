"""Tests of files that other scikit-learn versions wrote: they give what is expected of them, or are refused."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sklearn

from tests import warm_intake
from webapp import intake
from webapp.errors import Invalid
from webapp.intake import Upload, process, versions

FILES = Path(__file__).parent / "files" / "versions"
REQUIREMENTS = Path(__file__).parent.parent / "requirements"
MODELS = sorted(FILES.glob("*/*.joblib"))


def named(path: Path) -> str:
    return f"{path.parent.name} {path.stem}"


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", warm_intake.run)


def expectations(path: Path) -> Path:
    """Give the file of expected outputs that was made with a model."""
    return path.with_suffix(".expect.csv")


def inspect(scratch: Path, path: Path, **given: Any) -> tuple[str | None, dict[str, Any]]:
    """Inspect a file; give the version it was trained with where that matters, and the report."""
    with intake.inspected(Upload(path, **given), scratch=scratch, max_bytes=2**30) as inspected:
        return inspected.trained_with, inspected.report


# But those of what builds the wheel, and of what is installed beside.
LOCKS = sorted(path for path in REQUIREMENTS.glob("*.txt") if path.stem not in {"build", "parquet"})


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_lock_names_all_that_the_product_imports(lock: Path) -> None:
    project = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=[]", each)[0] for each in project["dependencies"]}
    assert not needed - set(re.findall(r"^([a-z0-9-]+)==", lock.read_text(), re.MULTILINE))


def test_there_are_files_of_three_versions_and_eighteen_kinds() -> None:
    assert {path.parent.name.rpartition(".")[0] for path in MODELS} == {"1.4", "1.5", "1.7"}
    assert min(Counter(path.parent.name for path in MODELS).values()) >= 18


@pytest.mark.parametrize("path", MODELS, ids=named)
def test_a_file_of_another_version_is_refused_before_it_is_opened(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_intake.child, "unpickle", lambda content: pytest.fail("it was opened"))
    with pytest.raises(Invalid) as caught:
        inspect(tmp_path, path)
    assert caught.value.code == "model_version_mismatch"
    for said in (path.parent.name, sklearn.__version__, "Train it again", "--build-arg SKLEARN="):
        assert said in caught.value.detail
    # What it names is gone, or it could be proven.
    assert caught.value.more["findings"] or "--expect" in caught.value.detail


def test_a_file_of_another_version_serves_what_is_expected_of_it_or_says_why_not(tmp_path: Path) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    for path in MODELS:
        version, refusal = path.parent.name, None
        try:
            trained_with, report = inspect(tmp_path, path, expect=expectations(path))
        except Invalid as invalid:
            refusal = invalid
        else:
            assert (trained_with, report["read"]["library"]) == (version, version), named(path)
            assert report["expected_rows"] > 0, named(path)
        outcomes[version, "refused" if refusal else "exact"] += 1
        if refusal:
            print(f"\n{named(path)}: {refusal.detail}", end="")
            assert refusal.code == "model_version_mismatch", named(path)
            assert version in refusal.detail, named(path)
            assert "Train it again" in refusal.detail, named(path)
            assert "Traceback" not in refusal.detail, named(path)
    print(f"\n{dict(outcomes)}")
    # As measured (docs/versions.md): what the others lack is gone from this version, or it computes otherwise.
    assert {version: count for (version, outcome), count in outcomes.items() if outcome == "exact"} == {
        "1.4.2": 14,
        "1.5.2": 15,
        "1.7.2": 15,
    }


def test_a_model_that_loads_and_computes_otherwise_is_refused_by_its_first_wrong_output(tmp_path: Path) -> None:
    path = FILES / "1.4.2" / "tfidf.joblib"
    with pytest.raises(Invalid, match="line 2, column “expected:no”") as caught:
        inspect(tmp_path, path, expect=expectations(path))
    assert caught.value.code == "model_version_mismatch"


def test_expected_outputs_that_are_not_met_are_named(tmp_path: Path) -> None:
    path = next(path for path in MODELS if path.stem == "ridge")
    wrong = tmp_path / "wrong.csv"
    header, first, *rest = expectations(path).read_text().splitlines()
    assert header.endswith(',"expected"')
    wrong.write_text("\n".join([header, f"{first.rpartition(',')[0]},12345.5", *rest]))
    with pytest.raises(Invalid) as caught:
        inspect(tmp_path, path, expect=wrong)
    assert caught.value.code == "model_version_mismatch"
    assert "12345.5 was expected" in caught.value.detail
    (finding,) = caught.value.more["findings"]  # type: ignore[misc]
    assert json.dumps(finding["name"]) == '"line 2, expected"'


@pytest.mark.parametrize("library", [None, sklearn.__version__, "1.9.99"])
def test_within_a_minor_version_files_are_alike(library: str | None) -> None:
    assert not versions.is_other_minor(library)


@pytest.mark.parametrize("library", ["1.8.0", "1.10.0", "0.24", "2.0"])
def test_another_minor_version_is_told_by_its_number(library: str) -> None:
    assert versions.is_other_minor(library)
