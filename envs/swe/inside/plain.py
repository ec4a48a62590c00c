"""A test runner in one file: ``plain.py [--terse] FILE…`` calls the functions named ``test_…`` of each file.

It says how every test went on its output, or one word for all of them with ``--terse``, and a line per test
to the file ``$TURNWISE_REPORT`` where there is one. Files are found from the working directory, which is on
the import path, as the file's own folder is.
"""

import json
import os
import sys


def main(arguments):  # type: ignore[no-untyped-def]
    terse = "--terse" in arguments
    sys.path.insert(0, os.getcwd())
    results = []
    for path in arguments:
        if not path.startswith("--"):
            results += run_file(path)
    failed = [name for name, error in results if error]
    for name, error in results:
        say(name, "failed" if error else "passed")
        if error and not terse:
            print("FAILED {}: {}".format(name, error))
    say("", "ended")
    if terse:
        print("fail" if failed or not results else "pass")
    else:
        print("{} failed, {} passed".format(len(failed), len(results) - len(failed)))
    return 1 if failed or not results else 0


def run_file(path):  # type: ignore[no-untyped-def]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    space = {"__name__": os.path.basename(path)[:-3], "__file__": path}
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), space)
    except Exception as error:
        return [(path, describe(error))]
    finally:
        del sys.path[0]
    return [
        (path + "::" + name, run_test(test))
        for name, test in space.items()
        if name.startswith("test_") and callable(test)
    ]


def run_test(test):  # type: ignore[no-untyped-def]
    try:
        test()
    except Exception as error:
        return describe(error)
    return ""


def describe(error):  # type: ignore[no-untyped-def]
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "line {}: ".format(frame.tb_lineno) if frame is not None else ""
    return "{}{} {}".format(where, type(error).__name__, error).strip()


def say(name, outcome):  # type: ignore[no-untyped-def]
    if "TURNWISE_REPORT" in os.environ:
        with open(os.environ["TURNWISE_REPORT"], "a") as file:
            file.write(json.dumps([name, outcome]) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
