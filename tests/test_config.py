"""Tests of the settings: read once, refused all together, complete after the first start."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import Field, FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from webapp import config
from webapp.config import InvalidSettings, Settings

SECRET = "a secret of more than thirty-two characters"
DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"
# Defaults that no document can state as they are: they depend on the machine.
SAID_IN_WORDS = {"MODELPORT_WORKERS": "cores, at most 8"}

# Reads what a first start makes, in many processes that all begin at the same moment. Prints one secret a line.
FIRST_STARTS = """
import os, sys
from webapp import config

ROUNDS, PROCESSES = 10, 6

for number in range(ROUNDS):
    settings = config.load({"MODELPORT_DATA_DIR": f"{sys.argv[1]}/{number}"})
    waiting, go = os.pipe()
    children = []
    for _ in range(PROCESSES):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(waiting, 1)
            try:
                said = config.prepare(settings).secret_key
            except config.InvalidSettings as error:
                said = str(error)
            os.write(1, f"{number} {said}\\n".encode())
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(waiting)
    for child in children:
        os.waitpid(child, 0)
"""


def problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        config.load(environ)
    return caught.value.problems


def name_of(item: Field[Any]) -> str:
    return f"MODELPORT_{item.name.upper()}"


def documented() -> dict[str, tuple[str, str, bool]]:
    """What the document's table says of each setting: default, meaning, and whether it is marked as a secret."""
    row = re.compile(r"^\| `(\w+)`( \(secret\))? \| (.+?) \| (.+?) \|$", re.MULTILINE)
    rows = row.findall(DOCUMENT.read_text(encoding="utf-8"))
    found = {name: (default, meaning, bool(secret)) for name, secret, default, meaning in rows}
    assert len(found) == len(rows), "a setting stands in the table twice"
    return found


def test_without_any_environment_there_is_a_complete_set_of_defaults() -> None:
    assert config.load({}).data_dir == Path("data")


def test_by_default_only_this_machine_can_reach_the_server() -> None:
    assert config.load({}).bind == "127.0.0.1:8000"
    assert config.load({}).trusted_proxies == 0


def test_by_default_every_prediction_is_logged() -> None:
    assert config.load({}).prediction_log == 1.0


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        config.load({}).workers = 3  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bind", "[::1]:80", "[::1]:80"),
        ("workers", "64", 64),
        ("prediction_log", "off", 0.0),
        ("prediction_log", "sample=0.25", 0.25),
        ("rate_limit", "10/second", "10/second"),
        ("default_model", "credit-risk", "credit-risk"),
        ("metrics_token", "", None),
        ("spool_full", "refuse", "refuse"),
    ],
)
def test_a_setting_is_read_from_the_environment(name: str, text: str, value: object) -> None:
    assert getattr(config.load({f"MODELPORT_{name.upper()}": text}), name) == value


def test_a_data_directory_may_begin_with_the_home_folder() -> None:
    assert config.load({"MODELPORT_DATA_DIR": "~/modelport"}).data_dir == Path.home() / "modelport"


def test_without_a_database_url_it_is_sqlite_in_the_data_directory(tmp_path: Path) -> None:
    assert config.load({"MODELPORT_DATA_DIR": str(tmp_path)}).sqlalchemy_url == f"sqlite:///{tmp_path}/modelport.db"
    url = "postgresql://localhost/modelport"
    assert config.load({"MODELPORT_DATABASE_URL": url}).sqlalchemy_url == url


# --- Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BIND", "8000"),
        ("BIND", ":8000"),
        ("BIND", "127.0.0.1:65536"),
        ("BIND", "127.0.0.1:http"),
        ("WORKERS", "0"),
        ("WORKERS", "65"),
        ("WORKERS", "four"),
        ("WORKERS", ""),
        ("THREADS", "1.5"),
        ("TRUSTED_PROXIES", "-1"),
        ("RATE_LIMIT", "a lot"),
        ("PREDICTION_LOG", "yes"),
        ("PREDICTION_LOG", "sample=0"),
        ("PREDICTION_LOG", "sample=1.5"),
        ("PREDICTION_LOG", "sample=nan"),
        ("PREDICTION_LOG", "share=0.1"),
        ("SPOOL_MAX_BYTES", "10"),
        ("SPOOL_FULL", "drop"),
        ("CACHE", "yes"),
        ("CACHE_TTL_SECONDS", "-1"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://localhost:port"),
        ("LOG_LEVEL", "INFO"),
        ("SECRET_KEY", "too short"),
        ("DATA_DIR", "~nobody-has-this-name/data"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_begins_with_its_name(name: str, text: str) -> None:
    [problem] = problems({f"MODELPORT_{name}": text})
    assert re.match(rf"MODELPORT_{name} (must|names) ", problem)


def test_all_wrong_settings_are_reported_together() -> None:
    wrong = {
        "MODELPORT_WORKERS": "many",
        "MODELPORT_BIND": "everywhere",
        "MODELPORT_SECRET_KEY": "short",
        "MODELPORT_SPOOL_FULL": "panic",
        "MODELPORT_WROKERS": "4",
    }
    found = problems({**wrong, "MODELPORT_THREADS": "4"})
    assert sorted(problem.partition(" ")[0] for problem in found) == sorted(wrong)


@pytest.mark.parametrize("place", ["/srv/models", "file:///srv/models", "memory://models", "s3://bucket/some/where"])
def test_artifacts_can_be_kept_in_a_folder_or_in_a_store(place: str) -> None:
    assert config.load({"MODELPORT_ARTIFACT_STORE": place}).artifact_store == place


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("models", "must be an absolute folder, or a URL such as s3://BUCKET/PREFIX"),
        ("nowhere://models", "names a kind of store that is not known: nowhere"),
        ("s3://", "names no place in the store, as s3://BUCKET/PREFIX does"),
        ("s3://?key=hush", "names no place in the store, as s3://BUCKET/PREFIX does"),
        ("gs://models", "needs a package that is not installed: pip install gcsfs"),
    ],
)
def test_a_place_that_cannot_keep_artifacts_is_refused_with_the_way_out(place: str, reason: str) -> None:
    assert problems({"MODELPORT_ARTIFACT_STORE": place}) == [f"MODELPORT_ARTIFACT_STORE {reason}"]


def test_a_store_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "find_spec", lambda _package: None)
    [problem] = problems({"MODELPORT_ARTIFACT_STORE": "s3://models"})
    assert problem.endswith('needs a package that is not installed: pip install "modelport[s3]"')


def test_batches_on_a_cluster_need_its_address() -> None:
    assert problems({"MODELPORT_BATCH_BACKEND": "dask"}) == [
        "MODELPORT_DASK_ADDRESS is missing: with MODELPORT_BATCH_BACKEND=dask it names the cluster's scheduler"
    ]
    address = "tcp://127.0.0.1:8786"
    settings = config.load({"MODELPORT_BATCH_BACKEND": "dask", "MODELPORT_DASK_ADDRESS": address})
    assert (settings.batch_backend, settings.dask_address) == ("dask", address)


def test_batches_on_a_cluster_whose_package_is_missing_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "find_spec", lambda _name: None)
    (problem,) = problems({"MODELPORT_BATCH_BACKEND": "dask", "MODELPORT_DASK_ADDRESS": "tcp://127.0.0.1:8786"})
    assert problem.endswith('pip install "modelport[dask]"')


def test_a_refusal_does_not_repeat_the_secret() -> None:
    assert "hush" not in "".join(problems({"MODELPORT_SECRET_KEY": "hush"}))


def test_every_unknown_name_with_our_prefix_is_named() -> None:
    found = problems({"MODELPORT_DATADIR": "/srv", "MODELPORT_DEBUG": "1", "MODEL": "mine", "PATH": "/bin"})
    assert [problem.partition(" ")[0] for problem in found] == ["MODELPORT_DATADIR", "MODELPORT_DEBUG"]
    assert all("docs/configuration.md" in problem for problem in found)


def test_only_secrets_can_come_from_files() -> None:
    [problem] = problems({"MODELPORT_BIND_FILE": "/etc/hostname"})
    assert problem.startswith("MODELPORT_BIND_FILE is not a setting")


# --- Secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [item for item in fields(Settings) if item.metadata["secret"]], ids=name_of)
def test_each_secret_can_come_from_a_file(item: Field[Any], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    forms = {"redis_url": f"redis://:{SECRET}@127.0.0.1:6379/0", "artifact_store": f"memory://{SECRET}"}
    given = forms.get(item.name, SECRET)
    file.write_text(f"{given}\n")
    assert getattr(config.load({f"{name_of(item)}_FILE": str(file)}), item.name) == given


def test_a_secret_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    [problem] = problems({"MODELPORT_SECRET_KEY": SECRET, "MODELPORT_SECRET_KEY_FILE": str(file)})
    assert problem == "MODELPORT_SECRET_KEY is given twice, also as MODELPORT_SECRET_KEY_FILE; keep one"


def test_a_secret_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    [problem] = problems({"MODELPORT_METRICS_TOKEN_FILE": str(tmp_path / "gone")})
    assert problem.startswith("MODELPORT_METRICS_TOKEN names a file that cannot be read (No such file or directory)")
    assert str(tmp_path / "gone") in problem


def test_the_rules_of_a_secret_hold_for_its_file_too(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("too short\n" + " " * 40)
    [problem] = problems({"MODELPORT_SECRET_KEY_FILE": str(file)})
    assert problem == "MODELPORT_SECRET_KEY must have at least 32 characters"


def test_the_first_start_makes_a_secret_that_only_its_owner_can_read(tmp_path: Path) -> None:
    settings = config.prepare(config.load({"MODELPORT_DATA_DIR": str(tmp_path / "data")}))
    kept = settings.data_dir / "secret-key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    assert kept.read_text() == settings.secret_key
    assert settings.secret_key is not None
    assert len(settings.secret_key) >= config.MIN_SECRET_CHARACTERS


def test_the_secret_is_made_once_and_kept(settings: Settings) -> None:
    again = config.prepare(config.load({"MODELPORT_DATA_DIR": str(settings.data_dir)}))
    assert again == settings
    assert sorted(path.name for path in settings.data_dir.iterdir()) == ["run", "secret-key"]


def test_two_installations_have_different_secrets(settings: Settings, tmp_path: Path) -> None:
    other = config.prepare(config.load({"MODELPORT_DATA_DIR": str(tmp_path / "other")}))
    assert other.secret_key != settings.secret_key


def test_a_secret_that_is_given_is_not_written_down(tmp_path: Path) -> None:
    settings = config.prepare(config.load({"MODELPORT_DATA_DIR": str(tmp_path), "MODELPORT_SECRET_KEY": SECRET}))
    assert settings.secret_key == SECRET
    assert not (tmp_path / "secret-key").exists()


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", FIRST_STARTS, tmp_path], check=True, stdout=subprocess.PIPE, text=True)
    lines = said.stdout.splitlines()
    kept = {f"{folder.name} {(folder / 'secret-key').read_text()}" for folder in tmp_path.iterdir()}
    assert len(lines) == 60
    assert set(lines) == kept
    assert len(kept) == 10


def test_a_kept_secret_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_text("cut")
    with pytest.raises(InvalidSettings) as caught:
        config.prepare(config.load({"MODELPORT_DATA_DIR": str(tmp_path)}))
    assert caught.value.problems == [f"{tmp_path}/secret-key must have at least 32 characters"]


def test_each_purpose_gets_a_key_of_its_own(settings: Settings) -> None:
    first, second = settings.derive("one thing"), settings.derive("another")
    assert first != second
    assert len(first) == len(second) == 32
    assert first == settings.derive("one thing")


def test_settings_without_a_secret_derive_nothing() -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        config.load({}).derive("anything")


# --- The data directory -----------------------------------------------------------------------------------


def unusable(data_dir: Path) -> str:
    with pytest.raises(InvalidSettings) as caught:
        config.prepare(config.load({"MODELPORT_DATA_DIR": str(data_dir)}))
    [problem] = caught.value.problems
    return problem


def test_a_file_in_the_place_of_the_data_directory_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("not a folder")
    assert unusable(file) == f"MODELPORT_DATA_DIR cannot be used (File exists): {file}"
    assert unusable(file / "below") == f"MODELPORT_DATA_DIR cannot be used (Not a directory): {file / 'below'}"
    assert file.read_text() == "not a folder"


def test_a_file_in_the_place_of_the_run_folder_names_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    assert unusable(tmp_path).startswith("MODELPORT_DATA_DIR cannot be used")


def test_looking_whether_the_data_directory_can_be_written_leaves_nothing(settings: Settings) -> None:
    assert [path.name for path in settings.run_dir.iterdir()] == ["metrics"]


# --- The document -----------------------------------------------------------------------------------------


def test_the_document_lists_every_setting_and_no_other() -> None:
    assert list(documented()) == [name_of(item) for item in fields(Settings)]


@pytest.mark.parametrize("item", fields(Settings), ids=name_of)
def test_the_document_says_of_each_setting_what_the_code_says(item: Field[Any]) -> None:
    default, meaning, secret = documented()[name_of(item)]
    in_code = f"`{item.metadata['default']}`" if item.metadata["default"] else "none"
    assert default == SAID_IN_WORDS.get(name_of(item), in_code)
    assert meaning == item.metadata["about"]
    assert secret == item.metadata["secret"]
