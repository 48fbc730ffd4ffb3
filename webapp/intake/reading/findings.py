"""What is found wrong with a model file, in words, and the refusal made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from webapp.errors import Invalid

Finding = dict[str, str | int]

MOST_LISTED = 100
MOST_CHARACTERS = 200
NOTHING_RAN = "Nothing in the file was run."

# The refusal bears the code of the gravest finding. Names come first: whoever must change the model needs them most.
GRAVEST_FIRST = (
    "model_unknown_names",
    "model_custom_code",
    "model_format_too_old",
    "model_unpacks_too_large",
    "model_structure_invalid",
    "model_truncated",
    "model_damaged",
)

# What a name means by the package it comes from, in words for the person whose file it is.
MEANINGS = {
    "__main__": "A function or class of your own; it is not stored in the file. Use parts of scikit-learn instead.",
    "__builtin__ _posixsubprocess aifc asyncio bdb builtins cProfile cgi code codecs codeop commands concurrent ctypes"
    " dill distutils doctest exceptions imaplib imp importlib inspect joblib linecache logging marshal mailcap"
    " multiprocessing nt ntpath os pdb pickle pip pkgutil platform popen2 posix posixpath profile pty pydoc runpy"
    " setuptools shutil signal site smtplib socket socketserver ssl subprocess sys sysconfig tempfile test threading"
    " timeit trace traceback tty types venv webbrowser zipimport": "Can run commands or code, or open files, when the"
    " model is opened. No scikit-learn model needs it.",
    "aiohttp ftplib http httpx poplib requests telnetlib urllib urllib2 urllib3 xmlrpc": "Can reach out to the network"
    " when the model is opened. No scikit-learn model needs it.",
    "_operator cloudpickle functools itertools operator": "Binds a call of the file's choice, which could be any. Use"
    " parts of scikit-learn instead.",
    "pandas": "Data, not a model: training data goes in as a CSV reference, and column names belong in a list.",
    "numpy scipy": "A part of it that no scikit-learn model needs, or of a version that is not served here.",
    "sklearn": "Not among the parts of scikit-learn that are served, or moved since the version that wrote the file.",
    "catboost category_encoders h2o imblearn jax keras lightgbm mlflow onnx prophet pyspark skorch spacy statsmodels"
    " tensorflow torch tpot transformers xgboost": "Belongs to another library; only scikit-learn estimators are"
    " served.",
}
BY_PACKAGE = {package: words for packages, words in MEANINGS.items() for package in packages.split()}
OTHERWISE = "Neither a part of scikit-learn nor of NumPy. Functions and classes of your own are not stored in the file."


def meaning(name: str) -> str:
    """Say what a name that may not stand in a model file is, and where there is one, the way out."""
    return BY_PACKAGE.get(name.partition(".")[0], OTHERWISE)


def refused(code: str, detail: str, *findings: Finding) -> Invalid:
    """Make the refusal of a file; one finding for each thing that may not stand in a model file."""
    return Invalid(code, detail, more={"findings": list(findings)})


def unknown_names(names: list[str]) -> Invalid:
    """Make the refusal of a file for the names in it, where no more is known than these."""
    findings = Findings()
    for name in names:
        findings.unknown(name, None)
    return findings.refusal()


def shown(name: str) -> str:
    """Give a name from a file in a form that any terminal, page and log can take."""
    text = name[:MOST_CHARACTERS].encode("ascii", "backslashreplace").decode("ascii")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


@dataclass(slots=True)
class Findings:
    """Everything found wrong with one file; each name once, where it first stands."""

    names: dict[str, Finding] = field(default_factory=dict)
    others: list[tuple[str, Finding]] = field(default_factory=list)
    # Counted beyond what is kept: a hostile file can hold millions.
    uncounted: int = 0

    def __bool__(self) -> bool:
        return bool(self.names or self.others)

    def unknown(self, name: str, offset: int | None) -> None:
        """Note a name that is not in the server's table."""
        if name in self.names:
            return
        if len(self.names) >= MOST_LISTED:
            self.uncounted += 1
            return
        self.names[name] = _finding(name, meaning(name), offset)

    def note(self, code: str, name: str, said: str, offset: int) -> None:
        """Note anything else."""
        if len(self.others) >= MOST_LISTED and code in {kept for kept, _ in self.others}:
            self.uncounted += 1
            return
        self.others.append((code, _finding(name, said, offset)))

    def refusal(self) -> Invalid:
        """Make one refusal of all of them."""
        codes = {code for code, _ in self.others}
        if self.names:
            own = all(name.startswith("__main__.") for name in self.names)
            codes.add("model_custom_code" if own else "model_unknown_names")
        code = min(codes, key=GRAVEST_FIRST.index)
        # Names before all else, then what gave the refusal its code.
        graded = sorted(self.others, key=lambda other: GRAVEST_FIRST.index(other[0]))
        found = [*self.names.values(), *(finding for _, finding in graded)]
        listed = sorted(found[:MOST_LISTED], key=lambda finding: finding.get("offset", 0))
        more = len(found) - len(listed) + self.uncounted
        beyond = f" {more:,} more findings are not listed." if more else ""
        return refused(code, f"{self._sentence(graded)}{beyond} {NOTHING_RAN}", *listed)

    def _sentence(self, graded: list[tuple[str, Finding]]) -> str:
        if self.names:
            return f"The file names what a model file may not: {', '.join(map(shown, list(self.names)[:5]))}."
        _, first = graded[0]
        return f"At byte {first['offset']:,}: {first['meaning']}"


def _finding(name: str, said: str, offset: int | None) -> Finding:
    found: Finding = {"name": shown(name), "meaning": said}
    return found if offset is None else {**found, "offset": offset}
