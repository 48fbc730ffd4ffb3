"""Builders of hostile model files: what the reader of pickles has to refuse, opcode by opcode."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np

# What the public scanners of pickles list as unsafe, and what their lists miss.
LISTED = """
os.system os.popen os.execv os.execve os.spawnl os.fork os.kill os.remove os.unlink os.rmdir os.putenv
posix.system posix.popen posix.execve nt.system nt.startfile
subprocess.Popen subprocess.run subprocess.call subprocess.check_call subprocess.check_output subprocess.getoutput
subprocess.getstatusoutput
builtins.eval builtins.exec builtins.compile builtins.open builtins.getattr builtins.setattr builtins.__import__
builtins.globals builtins.breakpoint builtins.apply __builtin__.eval __builtin__.exec __builtin__.getattr
__builtin__.file __builtin__.execfile __builtin__.apply commands.getoutput popen2.popen2
runpy._run_code runpy.run_path runpy.run_module pty.spawn socket.socket socket.create_connection
shutil.rmtree shutil.move shutil.copy webbrowser.open importlib.import_module importlib.reload
importlib.machinery.SourceFileLoader imp.load_source operator.attrgetter operator.methodcaller operator.itemgetter
_operator.attrgetter _operator.methodcaller pickle.loads pickle.load _pickle.loads cPickle.loads marshal.loads
types.FunctionType types.CodeType ctypes.CDLL ctypes.cdll.LoadLibrary pdb.run pdb.Pdb timeit.timeit timeit.main
bdb.Bdb bdb.Bdb.run trace.Trace.run asyncio.create_subprocess_shell
asyncio.unix_events._UnixSubprocessTransport._start urllib.request.urlopen urllib.request.urlretrieve
http.client.HTTPConnection requests.get requests.api.get aiohttp.client.ClientSession
numpy.testing._private.utils.runstring numpy.load numpy.fromfile numpy.memmap numpy.f2py.crackfortran.getlincoef
numpy.distutils.exec_command numpy.matrix numpy.vectorize
torch.load torch.hub.load torch.jit.unsupported_tensor_ops.execWrapper torch.storage._load_from_bytes
pip.main pip._internal.main setuptools.setup cProfile.run cProfile.runctx profile.Profile.run
code.interact code.InteractiveInterpreter.runcode codeop.compile_command functools.partial functools.reduce
itertools.starmap sklearn.os sklearn.utils._joblib sklearn.sys sklearn.setup_module sklearn.base.importlib
sklearn.datasets.fetch_openml joblib.load joblib.numpy_pickle.load joblib.memory.Memory logging.FileHandler
logging.config.listen tempfile.mkstemp pathlib.Path.unlink sys.exit sys.settrace signal.signal threading.Thread
multiprocessing.Process concurrent.futures.ProcessPoolExecutor zipimport.zipimporter site.main doctest.debug_script
idlelib.pyshell.ModifiedInterpreter.runcode lib2to3.pgen2.grammar.Grammar.loads distutils.file_util.write_file
pydoc.pipepager smtplib.SMTP ssl.get_server_certificate sqlite3.connect platform.popen venv.create ensurepip._run_pip
cloudpickle.loads dill.loads pandas.read_pickle scipy.io.loadmat scipy._lib._util.getattr
"""
UNSAFE = tuple(LISTED.split())


# --- Opcodes ----------------------------------------------------------------------------------------------


def named(full: str) -> bytes:
    """Write the opcode that looks a name up."""
    module, _, attribute = full.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(said: str) -> bytes:
    """Write text."""
    content = said.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def stacked(module: str, attribute: str) -> bytes:
    """Write the opcode that looks up what two texts name."""
    return text(module) + text(attribute) + b"\x93"


def reduced(full: str, argument: str = "true") -> bytes:
    """Call a function with one text."""
    return named(full) + text(argument) + b"\x85R"


def instanced(full: str) -> bytes:
    """Call it in Python 2's first way."""
    module, _, attribute = full.rpartition(".")
    return b"(" + text("true") + b"i" + module.encode() + b"\n" + attribute.encode() + b"\n"


def objected(full: str) -> bytes:
    """Call it in Python 2's second way."""
    return b"(" + named(full) + text("true") + b"o"


def made(full: str) -> bytes:
    """Make an object of it."""
    return named(full) + text("true") + b"\x85\x81"


def made_with_keywords(full: str) -> bytes:
    """Make an object of it, with keywords."""
    return named(full) + text("true") + b"\x85}\x92"


def built(full: str) -> bytes:
    """Put it where an estimator's own method would be looked for."""
    return named("sklearn.linear_model._logistic.LogisticRegression") + b")\x81}" + text("x") + named(full) + b"sb"


WAYS: dict[str, Callable[[str], bytes]] = {
    "REDUCE": reduced,
    "INST": instanced,
    "OBJ": objected,
    "NEWOBJ": made,
    "NEWOBJ_EX": made_with_keywords,
    "BUILD": built,
}


def pickled(body: bytes, protocol: int = 4) -> bytes:
    """Make a whole pickle of opcodes."""
    return b"\x80" + bytes([protocol]) + body + b"."


# --- Whole files ------------------------------------------------------------------------------------------


class Calls:
    """Is pickled as a call of any function."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.function = function
        self.args = args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.args


def dumped(value: object, **options: Any) -> bytes:
    """Write a value as joblib does."""
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    return file.getvalue()


def with_a_tail(value: object, tail: object) -> bytes:
    """Write arrays as joblib does, and behind them, where most scanners have stopped, something else."""
    return dumped([np.arange(1000.0), value, tail])


def in_an_array(value: object) -> bytes:
    """Hide something in an array of objects, which joblib writes as a pickle of its own."""
    array = np.empty(2, dtype=object)
    array[:] = [value, "text"]
    return dumped([np.arange(10.0), array])


def wrapper(dtype: bytes, shape: bytes, more: bytes = b"") -> bytes:
    """Announce an array as joblib does; `dtype` and `shape` are opcodes."""
    attributes = {
        "subclass": named("numpy.ndarray"),
        "shape": shape,
        "order": text("C"),
        "dtype": dtype,
        "allow_mmap": b"\x89",
        "numpy_array_alignment_bytes": b"K\x10",
    }
    pairs = b"".join(text(key) + value for key, value in attributes.items())
    return named("joblib.numpy_pickle.NumpyArrayWrapper") + b")\x81}(" + pairs + more + b"ub"


def dtype_of(code: str, state: bytes = b"") -> bytes:
    """Write a dtype with the state that NumPy gives to a simple one, or another."""
    minus = b"J\xff\xff\xff\xff"
    return (
        named("numpy.dtype")
        + text(code)
        + b"\x89\x88\x87R(K\x03"
        + text("<")
        + b"NNN"
        + (state or minus * 2 + b"K\x00")
        + b"tb"
    )


def whole(number: int) -> bytes:
    """Write a whole number."""
    content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def claiming(items: int) -> bytes:
    """Announce an array of so many doubles, and give sixteen bytes."""
    return pickled(wrapper(dtype_of("f8"), whole(items) + b"\x85") + b"\x0f" + b"\xff" * 15 + bytes(16))


def nested(depth: int) -> bytes:
    """Put lists into lists."""
    return pickled(b"]" * depth + b"a" * (depth - 1))


def nested_in_groups(depth: int) -> bytes:
    """Put lists into lists in the way of longer ones."""
    return pickled(b"](" * depth + b"N" + b"e" * depth)


def nested_in_tuples(depth: int) -> bytes:
    """Put tuples into tuples."""
    return pickled(b")" + b"\x85" * depth)


LENGTHY = {"BINBYTES8": b"\x8e", "BINUNICODE8": b"\x8d", "BYTEARRAY8": b"\x96", "FRAME": b"\x95"}


def lengthy(opcode: str, length: int) -> bytes:
    """Announce a length that the file does not have."""
    return b"\x80\x05" + LENGTHY[opcode] + struct.pack("<Q", length) + b"x" * 20 + b"."


def old_array(name: str, path: str) -> bytes:
    """Announce an array in a file of its own, as joblib did before 2016."""
    attributes = (
        text("filename") + text(path) + text("subclass") + named("numpy.ndarray") + text("allow_mmap") + b"\x88"
    )
    return pickled(named(f"joblib.numpy_pickle.{name}") + b")\x81}(" + attributes + b"ub", 2)
