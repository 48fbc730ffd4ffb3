"""What a pickle may call while it is opened, and with what: found by experiment over every estimator that is served.

A class or function in the server's table may be mentioned anywhere. Called it may be only as honest files call it:
the arguments go to native code that trusts them, or decide what else is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from webapp.intake.reading.values import Array, Dtype, List, Made, Name, Opaque, Set, Tuple, Unusual, is_whole

MOST_DIMENSIONS = 32
MOST_IN_A_DIMENSION = 2**62
WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
IMPUTER_TRIPLET = "sklearn.impute._iterative._ImputerTriplet"
TREE = "sklearn.tree._tree.Tree"
SEED_SEQUENCE = "numpy.random.bit_generator.SeedSequence"
MULTINOMIAL_LOSS = "sklearn._loss._loss.CyHalfMultinomialLoss"
BIT_GENERATORS = {
    "MT19937": "numpy.random._mt19937.MT19937",
    "PCG64": "numpy.random._pcg64.PCG64",
}
RANDOM_STATE = "numpy.random.mtrand.RandomState"
GENERATOR = "numpy.random._generator.Generator"
SCALAR = "numpy._core.multiarray.scalar"

# f8, i4, b1, O8, U12, V64. Others, such as dates and text that NumPy parses, are in no model.
DTYPE = re.compile(r"(f[248]|f16|[iu][1248]|b1|c8|c16|O8?)|([USV])([1-9]\d{0,8})")

Rule = Callable[[Sequence[object]], object]


def call(full: str, args: Sequence[object]) -> object:
    """Give what stands for the result of a call; `full` is in the server's table."""
    rule = CALLS.get(full)
    if rule is None:
        raise Unusual(full, "It is called. A model file may mention it, but has no reason to call it.")
    if any(isinstance(arg, Opaque) for arg in args):
        return Opaque()
    return rule(args)


def make(full: str, args: Sequence[object]) -> object:
    """Give what stands for a new object of a class, which `__init__` has not seen."""
    if full == WRAPPER and not args:
        return Made(WRAPPER, waits=True)
    if full == IMPUTER_TRIPLET and len(args) == 3:  # noqa: PLR2004 - a named tuple of three
        return Tuple(list(args))
    if not _is_written_in_python(full):
        raise Unusual(full, "It is made without being called. No model needs that of it.")
    if args:
        raise Unusual(full, "It is made with arguments. Models are made without, and get their state afterwards.")
    return Made(full)


# What is made by compiled code has no meaning before it is called.
COMPILED = (
    "scipy._lib.",
    "sklearn._loss._loss.",
    "sklearn.linear_model._sgd_fast.",
    "sklearn.metrics._dist_metrics.",
    "sklearn.neighbors._ball_tree.",
    "sklearn.neighbors._kd_tree.",
    "sklearn.tree._tree.",
)
LOWERCASE_CLASSES = {"csc_array", "csc_matrix", "csr_array", "csr_matrix", "make_column_selector"}


def _is_written_in_python(full: str) -> bool:
    name = full.rpartition(".")[2]
    is_class = name.lstrip("_")[:1].isupper() or name in LOWERCASE_CLASSES
    return is_class and full.startswith(("sklearn.", "scipy.")) and not full.startswith(COMPILED)


def shape_of(value: object, what: str) -> tuple[int, ...]:
    """Give the shape that a tuple says; refuse what no array can have."""
    if isinstance(value, Tuple) and len(value.items) <= MOST_DIMENSIONS:
        shape = tuple(size for size in value.items if isinstance(size, int) and not isinstance(size, bool))
        bounded = all(0 <= size < MOST_IN_A_DIMENSION for size in shape)
        if len(shape) == len(value.items) and bounded and math.prod(filter(None, shape)) < MOST_IN_A_DIMENSION:
            return shape
    raise Unusual(what, "Its shape is none that an array can have.")


def check_bytes(dtype: Dtype, data: memoryview, what: str) -> None:
    """Refuse bytes that are no values of the type, where compiled code would trust them."""
    # As indices, other bytes than these make NumPy write beyond its memory.
    if dtype.kind == "b" and data.tobytes().translate(None, b"\0\1"):
        raise Unusual(what, "It holds truth values that are neither true nor false.")


# --- Python's own -----------------------------------------------------------------------------------------


def _encode(args: Sequence[object]) -> object:
    match args:
        case [str(text), "latin1"]:
            try:
                return memoryview(text.encode("latin-1"))
            except UnicodeEncodeError:
                pass
    raise Unusual("_codecs.encode", "It is called with something else than bytes written as text.")


def _empty_bytes(args: Sequence[object]) -> object:
    if args:
        raise Unusual("builtins.bytes", "It is called with arguments.")
    return memoryview(b"")


def _range(args: Sequence[object]) -> object:
    if len(args) == 3 and all(map(is_whole, args)) and args[2]:  # noqa: PLR2004 - start, stop, step
        return Made("builtins.range")
    raise Unusual("builtins.range", "It is called with something else than start, stop and step.")


def _set(args: Sequence[object]) -> object:
    match args:
        case [List(placed=1) as items]:
            made = Set()
            made.put([items])
            return made
    raise Unusual("builtins.set", "It is called with something else than a list of its own.")


def _slice(args: Sequence[object]) -> object:
    plain = (str, int, type(None), Made)
    if len(args) == 3 and all(isinstance(arg, plain) for arg in args):  # noqa: PLR2004 - start, stop, step
        return Made("builtins.slice")
    raise Unusual("builtins.slice", "It is called with something else than start, stop and step.")


# --- NumPy ------------------------------------------------------------------------------------------------


def _dtype(args: Sequence[object]) -> object:
    match args:
        case [str(code), False | 0, True | 1] if known := DTYPE.fullmatch(code):
            simple, kind, length = known.groups()
            if simple:
                return Dtype(simple[0], int(simple[1:] or 8))
            return Dtype(kind, int(length) * (4 if kind == "U" else 1))
    raise Unusual("numpy.dtype", "It describes values that are in no model.")


def _reconstruct(args: Sequence[object]) -> object:
    match args:
        case [Name(full="numpy.ndarray"), Tuple(items=[0]), memoryview() as kind] if kind.tobytes() == b"b":
            return Array()
    raise Unusual("numpy._core.multiarray._reconstruct", "It is called otherwise than NumPy calls it for an array.")


def _masked(args: Sequence[object]) -> object:
    match args:
        case [Name(full="numpy.ma.MaskedArray"), Name(full="numpy.ndarray"), Tuple(items=[0]), kind]:
            if kind == "b" or (isinstance(kind, memoryview) and kind.tobytes() == b"b"):
                return Array("numpy.ma.MaskedArray")
    raise Unusual("numpy.ma.core._mareconstruct", "It is called otherwise than NumPy calls it for a masked array.")


def _from_buffer(args: Sequence[object]) -> object:
    name = "numpy._core.numeric._frombuffer"
    match args:
        case [memoryview() as data, Dtype(waits=False) as dtype, Tuple() as sizes, str(order), *rest]:
            shape = _permuted(shape_of(sizes, name), order, rest)
            if shape is not None and dtype.kind != "O":
                made = Array()
                made.shaped(dtype, shape)
                if made.claimed_bytes == len(data):
                    check_bytes(dtype, data, name)
                    return made
    raise Unusual(name, "The array's type, shape and bytes do not agree.")


def _permuted(shape: tuple[int, ...], order: str, rest: Sequence[object]) -> tuple[int, ...] | None:
    """Give the shape as it will be: another order of the axes may follow it."""
    if order in {"C", "F"} and not rest:
        return shape
    match rest:
        case [Tuple(items=axes)] if order == "K" and all(map(is_whole, axes)):
            places = [axis for axis in axes if isinstance(axis, int)]
            if sorted(places) == list(range(len(shape))):
                return tuple(shape[axis] for axis in places)
    return None


def _scalar(args: Sequence[object]) -> object:
    match args:
        case [Dtype(waits=False) as dtype, memoryview() as data] if dtype.kind not in "OV" and dtype.size == len(data):
            check_bytes(dtype, data, SCALAR)
            return Made(SCALAR)
    raise Unusual(SCALAR, "Its type and its bytes do not agree.")


# --- Random numbers ---------------------------------------------------------------------------------------


def _bit_generator(args: Sequence[object]) -> object:
    match args:
        case [Name(full=full)] if full in BIT_GENERATORS.values():
            return Made(full, waits=True)
        # Up to NumPy 1.23.
        case [str(name)] if name in BIT_GENERATORS:
            return Made(BIT_GENERATORS[name], waits=True)
    raise Unusual("numpy.random._pickle.__bit_generator_ctor", "It is called with no generator of a model.")


def _random(of: str) -> Rule:
    """Make the rule of what is wrapped around a bit generator."""

    def rule(args: Sequence[object]) -> object:
        match args:
            # The second, also before the state, up to NumPy 1.26.
            case [Made(of=inner, waits=False), *rest] if inner in BIT_GENERATORS.values() and _is_maker(rest):
                return Made(of)
            case [str(name), *rest] if name in BIT_GENERATORS and _is_maker(rest):
                return Made(of, waits=True)
        raise Unusual(of, "It is made with no generator of a model.")

    return rule


def _is_maker(rest: Sequence[object]) -> bool:
    match rest:
        case [] | [Name(full="numpy.random._pickle.__bit_generator_ctor")]:
            return True
    return False


def _seed_sequence(args: Sequence[object]) -> object:
    match args:
        case [Name(full="numpy.random.bit_generator.SeedSequence"), int(), None]:
            return Made(SEED_SEQUENCE, waits=True)
    raise Unusual(SEED_SEQUENCE, "It is made otherwise than NumPy makes it.")


# --- scikit-learn -----------------------------------------------------------------------------------------


def _plain(of: str, numbers: int) -> Rule:
    """Make the rule of a class that is called with so many numbers."""

    def rule(args: Sequence[object]) -> object:
        if len(args) == numbers and all(isinstance(arg, float) or is_whole(arg) or _is_scalar(arg) for arg in args):
            return Made(of)
        raise Unusual(of, f"It is called with something else than {numbers or 'no'} numbers.")

    return rule


def _is_scalar(value: object) -> bool:
    return isinstance(value, Made) and value.of == SCALAR


def _multinomial_loss(args: Sequence[object]) -> object:
    match args:
        case [Name(full="sklearn._loss._loss.CyHalfMultinomialLoss"), int(), None | Tuple(items=[])]:
            return Made(MULTINOMIAL_LOSS)
    raise Unusual(MULTINOMIAL_LOSS, "It is made otherwise than scikit-learn makes it.")


def _without_init(module: str, ending: str) -> Rule:
    """Make the rule of a module's `newObj`: a class of that module, which needs its state before anything else."""

    def rule(args: Sequence[object]) -> object:
        match args:
            case [Name(full=full)] if full.startswith(f"{module}.") and full.endswith((ending, f"{ending}64")):
                return Made(full, waits=True)
        raise Unusual(f"{module}.newObj", "It is called with something else than a class of its own module.")

    return rule


def _tree(args: Sequence[object]) -> object:
    match args:
        case [features, Array() as classes, outputs] if is_whole(features) and is_whole(outputs):
            if classes.is_of("i8", 1) and classes.count == outputs and 0 <= int(str(features)) < MOST_IN_A_DIMENSION:
                return Made(TREE, waits=True)
    raise Unusual(TREE, "Its numbers of features, classes and outputs do not agree.")


_LOSSES = "sklearn._loss._loss."
_SGD = "sklearn.linear_model._sgd_fast."
_NUMBERS = {
    **{f"{_LOSSES}{name}": 0 for name in ("CyAbsoluteError", "CyExponentialLoss", "CyHalfBinomialLoss")},
    **{f"{_LOSSES}{name}": 0 for name in ("CyHalfGammaLoss", "CyHalfPoissonLoss", "CyHalfSquaredError")},
    **{f"{_LOSSES}{name}": 1 for name in ("CyHalfTweedieLoss", "CyHalfTweedieLossIdentity")},
    **{f"{_LOSSES}{name}": 1 for name in ("CyHuberLoss", "CyPinballLoss")},
    f"{_SGD}ModifiedHuber": 0,
    **{f"{_SGD}{name}": 1 for name in ("EpsilonInsensitive", "Hinge", "SquaredEpsilonInsensitive", "SquaredHinge")},
}

CALLS: dict[str, Rule] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _empty_bytes,
    "builtins.range": _range,
    "builtins.set": _set,
    "builtins.slice": _slice,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "numpy.ma.core._mareconstruct": _masked,
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle.__generator_ctor": _random(GENERATOR),
    "numpy.random._pickle.__randomstate_ctor": _random(RANDOM_STATE),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _seed_sequence,
    "sklearn._loss._loss.__pyx_unpickle_CyHalfMultinomialLoss": _multinomial_loss,
    "sklearn.metrics._dist_metrics.newObj": _without_init("sklearn.metrics._dist_metrics", "Distance"),
    "sklearn.neighbors._ball_tree.newObj": _without_init("sklearn.neighbors._ball_tree", "BallTree"),
    "sklearn.neighbors._kd_tree.newObj": _without_init("sklearn.neighbors._kd_tree", "KDTree"),
    TREE: _tree,
    **{name: _plain(name, numbers) for name, numbers in _NUMBERS.items()},
}
