"""A test runner in one file: ``plain.py [--terse] FILE…`` calls the functions named ``test_…`` of each file.

It says how every test went on its output, or one word for all of them with ``--terse``, and a line per test
to the file ``$TURNWISE_REPORT`` where there is one. Files are found from the working directory, which is on
the import path, as the file's own folder is. It imports as little as it can: its start is what a run costs.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def main(arguments: list[str]) -> int:
    terse = "--terse" in arguments
    sys.path.insert(0, os.getcwd())
    results: list[tuple[str, str]] = []
    for path in arguments:
        if not path.startswith("--"):
            results += run_file(path)
    failed = [name for name, error in results if error]
    for name, error in results:
        say(name, "failed" if error else "passed")
        if error and not terse:
            print(f"FAILED {name}: {error}")
    say("", "ended")
    if terse:
        print("fail" if failed or not results else "pass")
    else:
        print(f"{len(failed)} failed, {len(results) - len(failed)} passed")
    return 1 if failed or not results else 0


def run_file(path: str) -> list[tuple[str, str]]:
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    space: dict[str, Any] = {"__name__": os.path.basename(path)[:-3], "__file__": path}
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), space)
    except Exception as error:  # noqa: BLE001  whatever the code under test raises
        return [(path, describe(error))]
    finally:
        del sys.path[0]
    return [
        (path + "::" + name, run_test(test))
        for name, test in space.items()
        if name.startswith("test_") and callable(test)
    ]


def run_test(test: Callable[[], object]) -> str:
    try:
        test()
    except Exception as error:  # noqa: BLE001  whatever the code under test raises
        return describe(error)
    return ""


def describe(error: Exception) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"line {frame.tb_lineno}: " if frame is not None else ""
    return f"{where}{type(error).__name__} {error}".strip()


def say(name: str, outcome: str) -> None:
    if "TURNWISE_REPORT" in os.environ:
        with open(os.environ["TURNWISE_REPORT"], "a") as file:
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'["{quoted}", "{outcome}"]\n')


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
