"""Rows from a file or from the Hugging Face hub, whatever they are rows of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turnwise.envs.errors import UsageError

HUB = "hub:"
"""Starts the name of a data set: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME/SPLIT``."""


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a ``.jsonl``, ``.json`` or ``.parquet`` file, or of a data set on the hub.

    Raises ``UsageError`` for what is none of these, cannot be read, or needs a package that is missing.
    """
    if path.startswith(HUB):
        yield from _of_hub(path.removeprefix(HUB))
        return
    file = Path(path)
    match file.suffix:
        case ".jsonl":
            yield from _of_lines(file)
        case ".json":
            yield from _checked(path, json.loads(file.read_text(encoding="utf-8")))
        case ".parquet":
            yield from _of_parquet(file)
        case _:
            raise UsageError(
                f"tasks {path!r}: give a .jsonl, .json or .parquet file, a folder, or {HUB}OWNER/NAME"
            )


def _of_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield from _checked(f"{file}:{number}", [json.loads(line)])
                except json.JSONDecodeError as error:
                    raise UsageError(f"tasks {str(file)!r}: line {number} is no JSON: {error.msg}") from None


def _checked(name: str, rows: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"tasks {name!r}: rows must be JSON objects")
    yield from rows


def _of_parquet(file: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UsageError(
            f"tasks {str(file)!r}: Parquet needs pyarrow: pip install 'turnwise[export]'"
        ) from None
    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _of_hub(name: str) -> Iterator[dict[str, Any]]:
    owner, _, rest = name.partition("/")
    data_set, _, split = rest.partition("/")
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise UsageError(
            f"tasks {HUB}{name}: the hub needs the package datasets: pip install datasets"
        ) from None
    try:
        rows = load_dataset(f"{owner}/{data_set}", split=split or "test")
    except (OSError, ValueError) as error:
        raise UsageError(f"tasks {HUB}{name}: {' '.join(str(error).split())}") from None
    yield from (dict(row) for row in rows)
