"""Warms a process up before it is locked: what an inspection may ever import or look up is imported and looked up.

Nothing can be opened behind the lock, so a module that a library imports at its first use would be missing there.
"""

from __future__ import annotations

import io
from contextlib import suppress
from importlib import import_module

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from webapp import artifacts, names

# What is imported inside functions and used rarely: how frames and estimators are shown, cut and taken apart.
LATE = (
    "pandas.core.arrays.sparse.scipy_sparse",
    "pandas.core.methods.select",
    "pandas.core.methods.to_dict",
    "pandas.core.reshape.reshape",
    "pandas.io.formats.csvs",
    "pandas.io.formats.string",
    "sklearn.ensemble._hist_gradient_boosting.utils",
    "sklearn.utils._pprint",
)
# What Python looks up by name: how old pickles write bytes, how zip files write names, how CSV files begin.
CODECS = ("ascii", "cp437", "latin_1", "raw_unicode_escape", "unicode_escape", "utf_8", "utf_8_sig")
CSV = b"size,city,note,member\n1.5,Oslo,one two,True\n,Rome,two,False\n3,,three,\n"


def up() -> None:
    """Import and rehearse; about a second the first time, since it imports all of scikit-learn."""
    tabled = {name.rpartition(".")[0] for name in names.PICKLE | names.SKOPS}
    # What builtins was called in Python 2.
    tabled.discard("__builtin__")
    for module in (*sorted(tabled), *(f"encodings.{codec}" for codec in CODECS)):
        import_module(module)
    for module in LATE:
        # Other releases have them elsewhere, and only few models need any.
        with suppress(ModuleNotFoundError):
            import_module(module)
    _rehearse()


def _rehearse() -> None:
    """Do once what every inspection does: libraries import, look up and remember things at their first use."""
    frame = pd.read_csv(io.BytesIO(CSV)).dropna(subset=["size", "city"])
    columns = make_column_transformer(
        (StandardScaler(), ["size"]), (OneHotEncoder(sparse_output=False), ["city"]), (TfidfVectorizer(), "note")
    )
    # By brute force, since that asks which native libraries have threads.
    nearest = KNeighborsClassifier(1, algorithm="brute")
    estimator = make_pipeline(columns, nearest).fit(frame, frame["member"].astype(str))
    artifacts.load(skops.io.dumps(estimator)).predict(frame)
    np.random.default_rng().random()
