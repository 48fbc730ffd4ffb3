#!/bin/sh
# Runs the tests, $2 processes of them beside each other: tests.sh PYTHON PROCESSES [ARGUMENT ...]
# What fails is run once more with nothing beside it, as CPython does it (`--rerun`): hundreds of real servers on a
# shared machine, and a whole run is not lost to one that was starved. It is named either way, and is a fault to mend.
set -eu

python=$1 processes=$2
shift 2

code=0
"$python" -m pytest --cache-clear -n "$processes" --dist loadfile --no-loadscope-reorder "$@" || code=$?
[ $code = 1 ] || exit $code # 1: tests failed. Anything else is no matter of a test.
echo "Once more, with nothing beside them:"
"$python" -m pytest --last-failed --last-failed-no-failures none -v "$@"
echo "WARNING: the tests above failed beside others and passed alone." >&2
