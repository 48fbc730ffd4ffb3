"""How the rule of drift does beside the guide's, on made-up windows and on data of which the truth is known.

The guide calls a numeric column drifted where the Kolmogorov-Smirnov test says p < 0.05. Data come inside the wheel of
NannyML, which is fetched once; nothing of it runs here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped] # scipy ships no types

from benchmarks.others import ENVIRONMENTS, environment
from webapp.drift import bins, layout, rule
from webapp.drift.bins import Binning, Counts
from webapp.drift.layout import Layout, Variable

LEVEL = rule.ALARMS_PER_YEAR / 365
REFERENCE_ROWS = 10_000
GUIDE_P = 0.05
DATA = "nannyml==0.13.1"
MIB = 1024 * 1024

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Judge:
    """A reference, and what both rules say of windows beside it."""

    columns: Columns
    binnings: dict[str, Binning]
    counts: dict[str, Counts]

    @classmethod
    def of(cls, columns: Columns) -> Judge:
        """Take columns as a reference: texts and truth values are categories, all else is numbers."""
        binnings = {
            name: bins.of_categories(values) if _is_category(values) else bins.of_numbers(values)
            for name, values in columns.items()
        }
        return cls(columns, binnings, {name: made.count(columns[name]) for name, made in binnings.items()})

    def drifted(self, window: Columns, dispersion: float = 1.0) -> set[str]:
        """Name the columns that have drifted by the rule."""
        found = {
            name: rule.compare(
                self.counts[name], made.count(window[name]), ordered=made.is_ordered, dispersion=dispersion
            ).p
            for name, made in self.binnings.items()
        }
        return rule.alarms(found, LEVEL)

    def guided(self, window: Columns) -> set[str]:
        """Name the numeric columns that have drifted by the guide's rule."""
        return {
            name
            for name, made in self.binnings.items()
            if made.kind == "number"
            and stats.ks_2samp(_numbers(window[name]), _numbers(self.columns[name])).pvalue < GUIDE_P
        }


def _is_category(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str | bool) for value in values)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [value for value in values if value is not None]


# --- Made-up windows ------------------------------------------------------------------------------------------


def made_up(random: np.random.Generator, count: int, change: str = "") -> Columns:
    """Give 10 numeric columns, half of them skewed, and 5 categories; one or all of them changed."""
    numbers = random.normal(size=(count, 10))
    weights = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    first = weights.copy()
    match change.split():
        case ["all", shift]:
            numbers += float(shift)
        case ["one", shift]:
            numbers[:, 0] += float(shift)
        case ["wider", scale]:
            numbers[:, 0] *= float(scale)
        case ["category", which, share]:
            grown = int(which)
            first = weights * (1 - weights[grown] - float(share)) / (1 - weights[grown])
            first[grown] = weights[grown] + float(share)
    numbers[:, 5:] = np.exp(numbers[:, 5:])
    columns: Columns = {f"x{number}": numbers[:, number].tolist() for number in range(10)}
    for number in range(5):
        drawn = random.choice(5, size=count, p=first if number == 0 else weights)
        columns[f"c{number}"] = [f"value {each}" for each in drawn.tolist()]
    return columns


# What changes, rows of a window, how many windows, and what the rule should say: at most or at least that share.
CASES = (
    ("nothing", "", 200, 1000, "<=", 0.01),
    ("nothing", "", 1000, 400, "<=", 0.01),
    ("nothing", "", 10_000, 60, "<=", 0.01),
    ("nothing", "", 100_000, 6, "<=", 0.01),
    ("0.03 sd on all numbers", "all 0.03", 10_000, 60, "<=", 0.01),
    ("0.03 sd on all numbers", "all 0.03", 100_000, 6, "<=", 0.01),
    ("0.3 sd on one of 15", "one 0.3", 1000, 200, ">=", 0.80),
    ("sd x 1.3 of one", "wider 1.3", 1000, 200, ">=", 0.90),
    ("0.5 sd on one", "one 0.5", 1000, 200, ">=", 0.99),
    ("0.5 sd on one", "one 0.5", 200, 200, ">=", 0.0),
    ("a category of 5 % becomes 15 %", "category 4 0.1", 1000, 200, ">=", 0.99),
    ("a category of 10 % becomes 20 %", "category 3 0.1", 1000, 200, ">=", 0.0),
)


def simulated() -> Iterator[str]:
    """Say in how many windows something was called drifted, of 15 columns; a reference has 10,000 rows."""
    yield "| changed | rows | windows | guide: KS p < 0.05 | Modelport | asked |"
    yield "|---|---|---|---|---|---|"
    judge = Judge.of(made_up(np.random.default_rng(0), REFERENCE_ROWS))
    for name, change, count, windows, sense, share in CASES:
        random = np.random.default_rng(count + windows)
        ours = guides = 0
        for _ in range(windows):
            window = made_up(random, count, change)
            ours += bool(judge.drifted(window))
            guides += bool(judge.guided(window))
        figures = f"{guides / windows:.3f} | {ours / windows:.3f}"
        yield f"| {name} | {count:,} | {windows:,} | {figures} | {sense} {share:g} |"


def _bursty(random: np.random.Generator, count: int, memory: float) -> list[float]:
    noise = random.normal(size=count) * np.sqrt(1 - memory**2)
    values = np.empty(count)
    values[0] = random.normal()
    for number in range(1, count):
        values[number] = memory * values[number - 1] + noise[number]
    drawn: list[float] = values.tolist()
    return drawn


def bursts(windows: int = 200, rows: int = 2000) -> Iterator[str]:
    """Say how the rule does where rows are like those before them, calibrated on 30 windows in which all is well."""
    yield "| memory of rows | guide | not calibrated | calibrated | 0.5 sd, calibrated |"
    yield "|---|---|---|---|---|"
    judge = Judge.of({"x": np.random.default_rng(0).normal(size=REFERENCE_ROWS).tolist()})
    for memory in (0.0, 0.5, 0.9):
        random = np.random.default_rng(int(memory * 100))
        known = rule.dispersion([judge.binnings["x"].count(_bursty(random, rows, memory)) for _ in range(30)])
        made = [{"x": _bursty(random, rows, memory)} for _ in range(windows)]
        shifted = [{"x": [value + 0.5 for value in window["x"]]} for window in made]
        shares = [
            np.mean([bool(judge.guided(window)) for window in made]),
            np.mean([bool(judge.drifted(window)) for window in made]),
            np.mean([bool(judge.drifted(window, known)) for window in made]),
            np.mean([bool(judge.drifted(window, known)) for window in shifted]),
        ]
        yield f"| {memory} | {' | '.join(f'{share:.3f}' for share in shares)} |"


# --- Data of which the truth is known ---------------------------------------------------------------------------


def _fetched() -> Path:
    """Give the folder of the data, which are fetched when they are missing."""
    folder = ENVIRONMENTS / "data"
    there = folder / "nannyml" / "datasets" / "data"
    if not there.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), DATA]
        subprocess.run(pip, check=True)  # noqa: S603 - our own command line
        with zipfile.ZipFile(next(folder.glob("nannyml-*.whl"))) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith("nannyml/datasets/data/")])
    return there


def _table(name: str) -> pd.DataFrame:
    """Read a table; those in Parquet are converted once, by an environment that can."""
    file = _fetched() / name
    if file.suffix == ".pq":
        written = file.with_suffix(".csv")
        if not written.exists():
            python = environment("parquet", "pandas", "pyarrow") / "python"
            convert = "import pandas, sys; pandas.read_parquet(sys.argv[1]).to_csv(sys.argv[2], index=False)"
            subprocess.run([str(python), "-c", convert, str(file), str(written)], check=True)  # noqa: S603 - ours
        file = written
    return pd.read_csv(file, low_memory=False)


def _columns(table: pd.DataFrame, names: Sequence[str], texts: Sequence[str] = ()) -> Columns:
    plain = table[list(names)].astype(object).where(table[list(names)].notna(), None)
    columns: Columns = {name: plain[name].tolist() for name in names}
    return columns | {
        name: [None if value is None else str(value) for value in columns[name]] for name in texts if name in columns
    }


CAR_LOAN = (
    "car_value",
    "salary_range",
    "debt_to_income_ratio",
    "loan_length",
    "repaid_loan_on_prev_car",
    "size_of_downpayment",
    "driver_tenure",
    "y_pred_proba",
)
CHANGED = {"car_value", "salary_range", "loan_length", "repaid_loan_on_prev_car", "y_pred_proba"}


def _chunk(analysed: pd.DataFrame, number: int) -> Columns:
    """Give one of the ten parts that both sets of car loans have."""
    return _columns(analysed.iloc[number * 5000 : (number + 1) * 5000], CAR_LOAN)


def car_loan() -> Iterator[str]:
    """Say what is found in ten chunks, of which the last five are changed in five columns."""
    judge = Judge.of(_columns(_table("synthetic_car_loan_reference.csv"), CAR_LOAN))
    analysed = _table("synthetic_car_loan_analysis.csv")
    yield "| car loan, chunk | guide: columns | Modelport: columns | truth |"
    yield "|---|---|---|---|"
    for number in range(10):
        window = _chunk(analysed, number)
        found = judge.drifted(window)
        exact = "exactly those" if found == (CHANGED if number > 4 else set()) else f"found {sorted(found)}"  # noqa: PLR2004 - chunks
        truth = len(CHANGED) if number > 4 else 0  # noqa: PLR2004 - chunks
        yield f"| {number} | {len(judge.guided(window))} | {len(found)} ({exact}) | {truth} |"
    for rows in (200, 500, 1000):
        parts = [analysed.iloc[first : first + rows] for first in range(0, 50_000, rows)]
        alarms = [bool(judge.drifted(_columns(part, CAR_LOAN))) for part in parts]
        half = len(alarms) // 2
        before, after = (100 * float(np.mean(each)) for each in (alarms[:half], alarms[half:]))
        yield f"| windows of {rows:,} rows | | before {before:.1f} %, after {after:.1f} % | 0 %, 100 % |"


def car_loan_quality() -> Iterator[str]:
    """Say what is found where values go missing, and a category comes that was never seen."""
    judge = Judge.of(_columns(_table("synthetic_car_loan_dq_reference.csv"), CAR_LOAN))
    analysed = _table("synthetic_car_loan_dq_analysis.csv")
    yield "| car loan, data quality, chunk | missing driver_tenure | new size_of_downpayment | drifted |"
    yield "|---|---|---|---|"
    for number in range(10):
        window = _chunk(analysed, number)
        missing = window["driver_tenure"].count(None) / 50
        new = judge.binnings["size_of_downpayment"].count(window["size_of_downpayment"])[-1] / 50
        yield f"| {number} | {missing:.1f} % | {new:.1f} % | {', '.join(sorted(judge.drifted(window))) or 'none'} |"


CODES = (
    "SCHL",
    "MAR",
    "RELP",
    "DIS",
    "ESP",
    "CIT",
    "MIG",
    "MIL",
    "ANC",
    "NATIVITY",
    "DEAR",
    "DEYE",
    "DREM",
    "SEX",
    "RAC1P",
)


def census() -> Iterator[str]:
    """Say what is found in three years in which a model stayed as good as it was."""
    reference = _table("employment_MA_reference.pq")
    wanted = ("AGEP", *CODES, "predicted_probability", "prediction")
    names = [name for name in wanted if name in reference.columns]
    judge = Judge.of(_columns(reference, names, CODES))
    analysed = _table("employment_MA_analysis.pq")
    yield "| census, year | rows | raw p < 0.05 | Modelport |"
    yield "|---|---|---|---|"
    for year, part in analysed.groupby("year"):
        window = _columns(part, names, CODES)
        raw = len(judge.guided(window) | _raw(judge, window))
        found = ", ".join(sorted(judge.drifted(window))) or "none"
        yield f"| {year} | {len(part):,} | {raw} of {len(names)} | {found} |"
    # Within a year, the file is sorted by how people live.
    mixed = analysed.sample(frac=1.0, random_state=0).sort_values("year", kind="stable")
    parts = [mixed.iloc[first : first + 2000] for first in range(0, len(mixed) - 2000, 2000)]
    windows = [_columns(part, names, CODES) for part in parts]
    silent = sum(not judge.drifted(window) for window in windows)
    loud = sum(bool(judge.guided(window) | _raw(judge, window)) for window in windows)
    yield f"| {len(parts)} windows | 2,000 | {loud} windows | {len(parts) - silent} windows |"


def _raw(judge: Judge, window: Columns) -> set[str]:
    """Name the categories that a plain chi-square test calls different."""
    found = set()
    for name, made in judge.binnings.items():
        if made.kind == "category":
            table = np.array([judge.counts[name], made.count(window[name])])
            table = table[:, table.sum(axis=0) > 0]
            if stats.chi2_contingency(table, correction=False).pvalue < GUIDE_P:
                found.add(name)
    return found


# --- Cost -------------------------------------------------------------------------------------------------------


def cost(rows: int = 200_000, features: int = 20) -> Iterator[str]:
    """Say how long it takes to count logged predictions, in pieces as the log writer has them."""
    random = np.random.default_rng(0)
    table = random.normal(size=(rows, features))
    meant = Layout(
        tuple(
            Variable("input", f"x{number}", bins.of_numbers(table[:5000, number].tolist()))
            for number in range(features)
        )
    )
    records = [{"instance": {f"x{number}": value for number, value in enumerate(row)}} for row in table.tolist()]
    began = time.process_time()
    total = np.zeros(meant.width, dtype=np.int64)
    for first in range(0, rows, 500):
        total += meant.count(records[first : first + 500])
    seconds = (time.process_time() - began) * 1_000_000 / rows
    year = len(layout.packed(total)) * 24 * 365 / MIB
    yield f"Counting 1,000,000 rows of {features} numbers: {seconds:.1f} s of CPU. A year of hours: {year:.0f} MiB."


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "simulated": simulated,
    "bursts": bursts,
    "car-loan": car_loan,
    "car-loan-quality": car_loan_quality,
    "census": census,
    "cost": cost,
}


def main() -> None:
    """Print every part, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    for name in parser.parse_args().only or PARTS:
        for line in PARTS[name]():
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
