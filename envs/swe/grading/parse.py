"""A program that says which files are Python: JSON of path to base64 comes in, a path a line goes out.

It is a process of its own because hostile source can exhaust the parser, or crash it.
"""

from __future__ import annotations

import ast
import base64
import json
import resource
import sys
import warnings

MEMORY = 1 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for path, data in json.load(sys.stdin).items():
        try:
            ast.parse(base64.b64decode(data))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        print(path, flush=True)


if __name__ == "__main__":
    main()
