"""Tests of packed files and of expected outputs: made where a model was trained, met where it is served."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from webapp.errors import Invalid
from webapp.intake import expect
from webapp.intake.expect import Expected
from webapp.pack import Refused, pack
from webapp.serving.predictor import Outcome, Predictor, assemble
from webapp.signature import Feature, Output, Signature
from webapp.signature.learn import learn

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "webapp" / "pack.py"
VERSIONS = ROOT / "tests" / "files" / "versions"
MODELPORT = Path(sys.executable).parent / "modelport"

COUNT = 40
RANDOM = np.random.default_rng(7)
FRAME = pd.DataFrame(RANDOM.normal(size=(COUNT, 3)), columns=["age", "income", "score"])
NUMBERS = FRAME.sum(axis=1) / 3
LABELS = np.where(NUMBERS > 0, "yes", "no")
TWO_LABELS = np.column_stack([NUMBERS > 0, FRAME["age"] > 0]).astype(int)
MIXED = pd.DataFrame(
    {
        "colour": ["red", "dark, green", 'so-called "blue"', "red"] * 10,
        "size": [1.0, 2.0, 3.5, np.nan] * 10,
        "member": [True, False] * 20,
    }
)
COLUMNS = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore"), ["colour"]), (SimpleImputer(), ["size"]), remainder="passthrough"
)
TEXTS = ["a good day", "bad, and\nover two lines", 'good and "bad"', "neither\r of them"] * 10

# Each with what it is trained on, and the columns that its expected outputs have.
KINDS: dict[str, tuple[Any, Any, Any, list[str]]] = {
    "classifier": (LogisticRegression(), FRAME, LABELS, ["expected", "expected:no", "expected:yes"]),
    "classifier of numbers": (
        RandomForestClassifier(5, random_state=0),
        FRAME,
        np.where(NUMBERS > 0, 2.0, 1.0),
        ["expected", "expected:1.0", "expected:2.0"],
    ),
    "classifier of truth": (
        LogisticRegression(),
        FRAME,
        np.asarray(NUMBERS > 0),
        ["expected", "expected:False", "expected:True"],
    ),
    "classifier without probabilities": (LinearSVC(), FRAME, LABELS, ["expected"]),
    "regressor": (Ridge(), FRAME, NUMBERS, ["expected"]),
    "regressor of two numbers": (
        LinearRegression(),
        FRAME,
        FRAME[["age", "score"]] * 2,
        ["expected.y0", "expected.y1"],
    ),
    "classifier with a table for each of two outputs": (
        MultiOutputClassifier(LogisticRegression()),
        FRAME,
        TWO_LABELS,
        ["expected.y0", "expected.y1", "expected.y0:0", "expected.y0:1", "expected.y1:0", "expected.y1:1"],
    ),
    "classifier with one table for two outputs": (
        ClassifierChain(LogisticRegression()),
        FRAME,
        TWO_LABELS,
        ["expected.y0", "expected.y1", "expected.y0:0", "expected.y0:1", "expected.y1:0", "expected.y1:1"],
    ),
    "classifier of a frame with categories": (
        make_pipeline(COLUMNS, LogisticRegression()),
        MIXED,
        LABELS,
        ["expected", "expected:no", "expected:yes"],
    ),
    "estimator without feature names": (
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
        FRAME.to_numpy(),
        LABELS,
        ["expected", "expected:no", "expected:yes"],
    ),
    "estimator of texts": (
        make_pipeline(FeatureUnion([("words", TfidfVectorizer())]), LogisticRegression()),
        TEXTS,
        LABELS,
        ["expected", "expected:no", "expected:yes"],
    ),
}


def member(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def columns(path: Path, name: str) -> list[str]:
    return list(pd.read_csv(io.BytesIO(member(path, name))).columns)


def outcomes(estimator: Any, reference: pd.DataFrame, expected: Expected) -> list[Outcome]:
    """Predict the expected rows as the server does."""
    signature = learn(estimator, assemble, reference=reference, declared=[]).signature
    rows = expected.rows_for(signature)
    return Predictor(estimator, signature).predict(rows, [""] * len(rows))


def said(differences: list[expect.Difference]) -> list[str]:
    return [str(difference) for difference in differences]


# --- Packing ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_packed_is_what_the_server_gives(kind: str, tmp_path: Path) -> None:
    estimator, inputs, outputs, wanted = KINDS[kind]
    out = tmp_path / "model.zip"
    about = pack(estimator.fit(inputs, outputs), inputs, out)
    assert columns(out, "expect.csv") == [*columns(out, "reference.csv"), *wanted]
    expected = expect.read(io.BytesIO(member(out, "expect.csv")))
    assert about["rows"] == {"reference": COUNT, "expect": COUNT}
    assert len(expected.rows) == COUNT
    found = outcomes(estimator, pd.read_csv(io.BytesIO(member(out, "reference.csv"))), expected)
    assert said(expect.differences(expected, found)) == []
    # The comparison would have seen it: the same outputs in another order are others.
    assert expect.differences(expected, found[::-1])


def test_a_packed_file_says_what_it_holds_and_which_libraries_made_it(tmp_path: Path) -> None:
    out, dumped = tmp_path / "model.zip", io.BytesIO()
    estimator = Ridge().fit(FRAME, NUMBERS)
    about = pack(estimator, FRAME, out, metadata={"accuracy": 0.9})
    joblib.dump(estimator, dumped, compress=3)
    assert member(out, about["files"]["model"]) == dumped.getvalue()
    assert json.loads(member(out, "modelport.json")) == about
    assert about["format"] == 1
    assert about["estimator"] == "sklearn.linear_model._ridge.Ridge"
    assert about["versions"]["numpy"] == np.__version__
    assert set(about["versions"]) == {"scikit-learn", "numpy", "pandas", "joblib", "python"}
    with zipfile.ZipFile(out) as archive:
        assert set(archive.namelist()) == {"modelport.json", *about["files"].values()}
        # No time: the same packed again is the same file.
        assert {each.date_time for each in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert json.loads(member(out, about["files"]["metadata"])) == {"accuracy": 0.9}
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_the_target_and_columns_that_are_no_features_stay_out(tmp_path: Path) -> None:
    reference = FRAME.assign(outcome=LABELS, iban="secret")[["iban", "score", "outcome", "income", "age"]]
    pack(Ridge().fit(FRAME, NUMBERS), reference, tmp_path / "model.zip", target="outcome")
    assert columns(tmp_path / "model.zip", "reference.csv") == ["age", "income", "score"]


def test_the_target_stays_out_where_the_estimator_knows_no_names(tmp_path: Path) -> None:
    reference = FRAME.assign(outcome=LABELS)
    pack(Ridge().fit(FRAME.to_numpy(), NUMBERS), reference, tmp_path / "model.zip", target="outcome")
    assert columns(tmp_path / "model.zip", "expect.csv") == ["age", "income", "score", "expected"]


def test_expected_rows_come_from_all_over_the_reference(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": np.arange(1000.0)})
    about = pack(Ridge().fit(frame, frame["age"]), frame, tmp_path / "model.zip", rows=5)
    assert about["rows"] == {"reference": 1000, "expect": 5}
    rows = pd.read_csv(io.BytesIO(member(tmp_path / "model.zip", "expect.csv")))
    assert rows["age"].tolist() == [0, 250, 500, 749, 999]


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    frame = FRAME.assign(age=FRAME["age"] * 1e-17, income=FRAME["income"] / 3)
    estimator = Ridge().fit(frame, NUMBERS)
    pack(estimator, frame, tmp_path / "model.zip")
    expected = expect.read(io.BytesIO(member(tmp_path / "model.zip", "expect.csv")))
    assert [float(outcome["prediction"]) for outcome in expected.outcomes] == estimator.predict(frame).tolist()
    assert expected.rows["income"].map(float).tolist() == frame["income"].tolist()


def test_single_precision_is_packed_as_the_double_that_is_served(tmp_path: Path) -> None:
    frame = FRAME.astype("float32")
    estimator = Ridge().fit(frame, NUMBERS)
    pack(estimator, frame, tmp_path / "model.zip")
    expected = expect.read(io.BytesIO(member(tmp_path / "model.zip", "expect.csv")))
    assert said(expect.differences(expected, outcomes(estimator, frame.astype("float64"), expected))) == []


def test_rows_with_missing_values_are_left_out_where_the_estimator_refuses_them(tmp_path: Path) -> None:
    holes = FRAME.mask(FRAME["age"] > 1)
    about = pack(Ridge().fit(FRAME, NUMBERS), holes, tmp_path / "model.zip")
    assert about["rows"] == {"reference": COUNT, "expect": len(holes.dropna())}
    assert len(holes.dropna()) < COUNT


@pytest.mark.parametrize(
    ("estimator", "reference", "target", "because"),
    [
        (StandardScaler().fit(FRAME), FRAME, None, "StandardScaler has no predict"),
        (Ridge().fit(FRAME, NUMBERS), FRAME.drop(columns="age"), None, "no column for: age; it has: income, score"),
        (Ridge().fit(FRAME, NUMBERS), FRAME, "outcome", "no column “outcome” to leave out; it has: age"),
        (Ridge().fit(FRAME, NUMBERS), FRAME.head(0), None, "no rows"),
        (Ridge().fit(FRAME.to_numpy(), NUMBERS), FRAME.assign(y=1), None, "takes 3 columns, the reference has age"),
        (Ridge(), FRAME, None, "not fitted yet"),
        (Ridge().fit(FRAME, NUMBERS), FRAME.assign(age="old"), None, "could not convert string to float: 'old'"),
        (Ridge().fit(FRAME, NUMBERS), FRAME * np.nan, None, "contains NaN"),
        (
            Ridge().fit(FRAME.set_axis(["a", "expected:no", "c"], axis=1), NUMBERS),
            FRAME.set_axis(["a", "expected:no", "c"], axis=1),
            None,
            "A column is called expected:no",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_packed_is_refused_in_words(
    estimator: Any, reference: pd.DataFrame, target: str | None, because: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused) as caught:
        pack(estimator, reference, tmp_path / "model.zip", target=target)
    assert because in str(caught.value)
    assert not list(tmp_path.iterdir())


# --- As a program -----------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a model's file and the CSV it was trained on."""
    joblib.dump(LogisticRegression().fit(FRAME, LABELS), tmp_path / "model.joblib")
    FRAME.assign(outcome=LABELS).to_csv(tmp_path / "train.csv", index=False)
    return tmp_path


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


WORDS = ("model.joblib", "--reference", "train.csv", "--target", "outcome", "-o", "model.zip")


def test_the_program_packs_where_there_is_no_modelport(trained: Path) -> None:
    copied = trained / "pack.py"
    copied.write_bytes(SCRIPT.read_bytes())
    # -I: nothing of this checkout is on the path.
    done = run(trained, sys.executable, "-I", copied, *WORDS, "--rows", "30")
    assert (done.returncode, done.stderr) == (0, "")
    assert "LogisticRegression" in done.stdout
    assert "40 rows of reference, 30 with expected outputs" in done.stdout
    pack(LogisticRegression().fit(FRAME, LABELS), FRAME, trained / "same.zip", rows=30)
    assert member(trained / "model.zip", "expect.csv") == member(trained / "same.zip", "expect.csv")


def test_the_command_packs(trained: Path) -> None:
    (trained / "card.json").write_text('{"accuracy": 0.9}', encoding="utf-8")
    done = run(trained, MODELPORT, "pack", *WORDS, "--metadata", "card.json", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answered = json.loads(done.stdout)
    assert answered["file"] == "model.zip"
    assert answered["rows"] == {"reference": COUNT, "expect": COUNT}
    assert columns(trained / "model.zip", "expect.csv") == [*FRAME.columns, "expected", "expected:no", "expected:yes"]


def test_the_command_writes_the_program_and_nothing_over_what_is_there(tmp_path: Path) -> None:
    done = run(tmp_path, MODELPORT, "pack", "--script")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pack.py").read_bytes() == SCRIPT.read_bytes()
    again = run(tmp_path, MODELPORT, "pack", "--script", "pack.py")
    assert again.returncode == 1
    assert "[file_exists]" in again.stderr


@pytest.mark.parametrize(
    ("words", "code", "because"),
    [
        (WORDS[:-2], 2, "FILE, --reference and --out are needed"),
        (("model.joblib", "--script", "pack.py"), 2, "leave out FILE"),
        (("train.csv", *WORDS[1:]), 1, "train.csv cannot be opened here"),
        (("model.joblib", "--reference", "model.joblib", "-o", "model.zip"), 1, "cannot be read as a CSV"),
        ((*WORDS, "--metadata", "train.csv"), 1, "cannot be read as JSON"),
        (("model.joblib", "--reference", "train.csv", "--target", "x", "-o", "model.zip"), 1, "no column “x”"),
        (
            (str(VERSIONS / "1.7.2" / "ridge.joblib"), *WORDS[1:]),
            1,
            "Run this with the scikit-learn of the training. Trying to unpickle estimator Ridge from version 1.7.2",
        ),
    ],
)
def test_the_command_refuses_in_words(trained: Path, words: tuple[str, ...], code: int, because: str) -> None:
    done = run(trained, MODELPORT, "pack", *words)
    assert done.returncode == code
    assert because in done.stderr
    assert not list(trained.glob("*.zip*"))


def test_the_program_is_written_for_old_pythons_and_imports_nothing_else() -> None:
    module = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 9))
    found = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert others == {"joblib", "numpy", "pandas", "sklearn"}


# --- Reading what is expected -----------------------------------------------------------------------------


def read(text: str | bytes) -> Expected:
    return expect.read(io.BytesIO(text if isinstance(text, bytes) else text.encode()))


def refusal(text: str | bytes) -> str:
    with pytest.raises(Invalid) as caught:
        read(text)
    assert caught.value.code == "expect_unreadable"
    assert "modelport pack" in caught.value.detail
    return caught.value.detail


def signature(*features: Feature, container: Any = "frame") -> Signature:
    return Signature(features, container, "classification", (Output("prediction"),), "none")


def test_what_a_person_writes_by_hand_is_enough() -> None:
    expected = read("\ufeffage,income,expected\r\n35,5e4,approved\r\n\r\n61,,declined\r\n")
    assert expected.outcomes == [
        {"prediction": "approved", "probabilities": {}},
        {"prediction": "declined", "probabilities": {}},
    ]
    assert expected.lines == (2, 4)
    assert expected.rows_for(signature(Feature("income"), Feature("age"))) == [(50000.0, 35.0), (None, 61.0)]


def test_outputs_have_the_form_of_answers() -> None:
    assert read("age,expected,expected:a:b,expected:1.0\n1,x,0.25,0.75\n").outcomes == [
        {"prediction": "x", "probabilities": {"a:b": 0.25, "1.0": 0.75}}
    ]
    assert read("age,expected.y0,expected.y1,expected.y1:no\n1,2,no,1\n").outcomes == [
        {"prediction": {"y0": "2", "y1": "no"}, "probabilities": {"y1": {"no": 1.0}}}
    ]


def test_cells_become_what_the_signature_takes() -> None:
    expected = read("code,member,size,expected\n007,True,1,x\nNA,0,nan,x\n,,,x\n")
    kinds = signature(Feature("code", "string"), Feature("member", "boolean"), Feature("size"))
    assert expected.rows_for(kinds) == [("007", True, 1.0), ("NA", False, None), (None, None, None)]


def test_a_text_may_be_empty_and_its_column_called_anything() -> None:
    expected = read('review,expected\n"",x\n"two\nlines",y\n')
    assert expected.rows_for(signature(Feature("text", "string"), container="text")) == [("",), ("two\nlines",)]
    assert expected.lines == (2, 3)


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("", "the file is empty"),
        ("age,expected\n", "there is a header, but no rows"),
        ("age,income\n1,2\n", "line 1 has no column “expected”; it has: age, income"),
        ("age,expected:yes\n1,0.5\n", "line 1 has no column “expected”"),
        ("expected\n1\n", "line 1 names no input"),
        ("age,age,expected\n1,2,3\n", "line 1 has the column “age” twice"),
        ("age,expected,expected.y0\n1,2,3\n", "“expected” beside outputs with names"),
        ("age,expected.y0,expected.y1:no\n1,2,0.5\n", "line 1 has “expected.y1:no”, but not “expected.y1”"),
        ("age,expected\n1,2\n3\n", "line 3 has 1 cells, the header 2"),
        ("age,expected\n1,2\n3,4,5\n", "line 3 has 3 cells, the header 2"),
        ("age,expected\n1,2\n3,\n", "line 3, column “expected” is empty"),
        ('text,expected,expected:a\n"two\nlines",a,1\nx,a,much\n', "line 4, column “expected:a” has “much”"),
        ("age,expected,expected:a\n1,a,nan\n", "line 2, column “expected:a” has “nan”, which is no number"),
        ('age,expected\n1,"2\n', "line 2 is no CSV"),
        (b"age,expected\n1,\xff\n", "is not UTF-8"),
        (b"PK\x03\x04\x14\x00\x9c\xff", "what follows line 0 is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str | bytes, because: str) -> None:
    assert because in refusal(text)


@pytest.mark.parametrize(
    ("features", "because"),
    [
        ([Feature("age"), Feature("score")], "line 1 has no column for: score; it has: age, member"),
        ([Feature("member")], "line 3, column “member” has “maybe”, which is no number"),
        ([Feature("member", "boolean")], "line 3, column “member” has “maybe”, which is no true or false"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused_with_their_place(
    features: list[Feature], because: str
) -> None:
    expected = read("age,member,expected\n1,1,x\n2,maybe,x\n")
    with pytest.raises(Invalid) as caught:
        expected.rows_for(signature(*features))
    assert because in caught.value.detail


# --- Comparing --------------------------------------------------------------------------------------------


def test_each_difference_is_named_with_line_column_and_both_values() -> None:
    expected = read("age,expected,expected:no,expected:yes\n1,yes,0.25,0.75\n2,no,0.5,0.5\n3,no,0.5,0.5\n")
    given = [
        Outcome("yes", 0.75, {"no": 0.25, "yes": 0.75}),
        Outcome("yes", 0.6, {"no": 0.4, "yes": 0.6}),
        Outcome("no"),
    ]
    assert said(expect.differences(expected, given)) == [
        "line 3, column “expected”: no was expected, the model gives yes",
        "line 3, column “expected:no”: 0.5 was expected, the model gives 0.4",
        "line 3, column “expected:yes”: 0.5 was expected, the model gives 0.6",
        "line 4, column “expected:no”: 0.5 was expected, the model has no such output",
        "line 4, column “expected:yes”: 0.5 was expected, the model has no such output",
    ]


def test_outputs_are_compared_by_their_names() -> None:
    expected = read("age,expected.y0,expected.y1,expected.y1:no\n1,2,no,1\n")
    same = Outcome({"y0": 2, "y1": "no"}, None, {"y0": {"2": 1.0}, "y1": {"no": 1.0}})
    assert said(expect.differences(expected, [same])) == []
    assert [difference.column for difference in expect.differences(expected, [Outcome(2)])] == [
        "expected.y0",
        "expected.y1",
        "expected.y1:no",
    ]
    assert expect.differences(read("age,expected\n1,2\n"), [same])


@pytest.mark.parametrize(
    ("cell", "given", "same"),
    [
        ("1000000", 1000000.0005, True),
        ("1000000", 1000000.002, False),
        ("0", 1e-13, True),
        ("1e-9", 2e-9, False),
        ("much", 1.0, False),
        ("1", 1, True),
        ("1.0", 1, True),
        ("1.0000000001", 1, False),
        ("True", True, True),
        ("false", False, True),
        ("yes", True, False),
        ("1", "1", True),
        ("1.0", "1", False),
        ("Yes", "yes", False),
    ],
)
def test_labels_are_identical_and_numbers_nearly(cell: str, given: Any, same: bool) -> None:  # noqa: FBT001 - a table's column
    assert (expect.differences(read(f"age,expected\n1,{cell}\n"), [Outcome(given)]) == []) is same


# --- Files of other versions ------------------------------------------------------------------------------


def test_the_files_of_other_versions_are_those_that_the_manifest_names() -> None:
    manifest = json.loads((VERSIONS / "manifest.json").read_text(encoding="utf-8"))
    lying = {
        str(path.relative_to(VERSIONS)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VERSIONS.glob("*/*")
        if path.is_file()
    }
    assert lying == manifest["files"]
    assert {version: made["scikit-learn"] for version, made in manifest["versions"].items()} == {
        version: version for version in ("1.4.2", "1.5.2", "1.7.2")
    }


@pytest.mark.parametrize(
    "path", sorted(VERSIONS.glob("*/*.expect.csv")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_expected_outputs_of_other_versions_can_be_read(path: Path) -> None:
    with path.open("rb") as file:
        expected = expect.read(file)
    assert len(expected.outcomes) == COUNT
    references = [
        set(pd.read_csv(each, nrows=0).columns) == set(expected.rows.columns)
        for each in VERSIONS.glob("reference/*.csv")
    ]
    assert references.count(True) == 1
