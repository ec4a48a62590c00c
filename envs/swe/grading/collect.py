"""Taking an agent's tree: as bytes, once its machine has come to rest, under rules.

The agent's processes are ended by the first read, and nothing is started after it, so what is read does
not change. No command runs in the sandbox, git included: its hooks, filters and replaced objects would
answer in its place. Only when the machine is gone are the bytes looked at, and whether they are Python is
found out in a process of its own, since a parser can be made to crash.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import posixpath
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from turnwise.envs.swe.grading.rules import Fault, Rejection, Rules, Submission, Tree, sift
from turnwise.sandbox.contract import LimitExceeded, Sandbox

PARSE_SECONDS = 60.0
REMEMBERED = 1024
REMEMBERED_BYTES = 16 << 20


async def collect(
    tree: Tree | Sandbox, base: Tree, rules: Rules, *, at: str = "/workspace"
) -> Submission | Rejection:
    """What an agent hands in, of a tree of files or of its sandbox, where the repository is ``at``.

    The sandbox is closed. Raises ``SandboxError`` when it has died; whatever the agent made of its files
    is a :class:`Rejection`.
    """
    if isinstance(tree, Sandbox):
        try:
            taken = await take(tree, rules, at=at)
        finally:
            await tree.close()
        return taken if isinstance(taken, Rejection) else await collect(taken, base, rules)
    found = sift(tree, base, rules)
    if isinstance(found, Rejection):
        return found
    changed = {path: data for path, data in found.files.items() if base.get(path) != data}
    usual = {path: base[path] for path in changed if path in base}
    uses = await _uses([*changed.values(), *usual.values()])
    if bad := [path for path, data in changed.items() if data not in uses]:
        return Rejection(fault=Fault.SYNTAX, path=bad[0])
    before = {use for data in usual.values() for use in uses.get(data, ())}
    new = {use for data in changed.values() for use in uses[data]} - before
    return found.model_copy(update={"uses": tuple(sorted(new))})


async def take(sandbox: Sandbox, rules: Rules, *, at: str = "/workspace") -> dict[str, bytes] | Rejection:
    """Every file below the declared sources, or why they are not what they should be.

    The agent's processes end. Raises ``SandboxError`` when the sandbox has died.
    """
    files: dict[str, bytes] = {}
    with contextlib.suppress(LimitExceeded, OSError):  # its files are looked at one by one
        await sandbox.read_tree(at, limit=0)  # ends the agent's processes
    for source in rules.sources:
        try:
            found = await _take_source(sandbox, source, rules, at)
        except FileNotFoundError:
            return Rejection(fault=Fault.MISSING, path=source)
        except LimitExceeded:
            return Rejection(fault=Fault.LARGE, path=source)
        except OSError as error:
            return Rejection(fault=Fault.UNREADABLE, path=f"{source}: {error.strerror}")
        if isinstance(found, Rejection):
            return found
        files |= found
    return files


async def _take_source(sandbox: Sandbox, source: str, rules: Rules, at: str) -> dict[str, bytes] | Rejection:
    parts = source.split("/")
    for end in range(1, len(parts)):
        above = "/".join(parts[:end])
        if (await sandbox.stat(posixpath.join(at, above))).kind != "directory":
            return Rejection(fault=Fault.LINK, path=above)
    top = posixpath.join(at, source)
    if source.endswith(".py"):
        return await _look(sandbox, at, source, rules) or {
            source: await sandbox.read(top, limit=rules.file_bytes + 1)
        }
    fault = await _look(sandbox, at, source, rules) or await _walk(sandbox, at, source, rules)
    if fault is not None:
        return fault
    files = await sandbox.read_tree(top, limit=rules.bytes)
    return {f"{source}/{name}": data for name, data in files.items()}


async def _look(sandbox: Sandbox, at: str, source: str, rules: Rules) -> Rejection | None:
    """What a declared source itself is."""
    info = await sandbox.stat(posixpath.join(at, source))
    if info.kind == "symlink" or (info.kind == "file" and info.links > 1):
        return Rejection(fault=Fault.LINK, path=source)
    wanted = "file" if source.endswith(".py") else "directory"
    return None if info.kind == wanted else Rejection(fault=Fault.SPECIAL, path=source)


async def _walk(sandbox: Sandbox, at: str, source: str, rules: Rules) -> Rejection | None:
    """What else than plain files and folders is below, if anything."""
    count, folders = 0, [source]
    while folders:
        folder = folders.pop()
        if folder.count("/") - source.count("/") > rules.depth:
            return Rejection(fault=Fault.DEEP, path=folder)
        for info in await sandbox.list(posixpath.join(at, folder)):
            path, count = f"{folder}/{info.name}", count + 1
            if count > 2 * rules.files:
                return Rejection(fault=Fault.MANY, path=source)
            if info.kind == "symlink" or (info.kind == "file" and info.links > 1):
                return Rejection(fault=Fault.LINK, path=path)
            if info.kind == "other":
                return Rejection(fault=Fault.SPECIAL, path=path)
            if info.kind == "directory":
                folders.append(path)
    return None


_known: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
"""What files use that are Python, by what is in them."""


async def _uses(files: Iterable[bytes]) -> dict[bytes, tuple[str, ...]]:
    """What each file uses that is Python (see :mod:`.parse`)."""
    uses = {data: _known[data] for data in files if data in _known}
    if unknown := [data for data in dict.fromkeys(files) if data not in uses]:
        parsed = await _parsed({str(number): data for number, data in enumerate(unknown)})
        uses |= {data: tuple(parsed[str(n)]) for n, data in enumerate(unknown) if str(n) in parsed}
    for data, found in uses.items():
        _known[data] = found
        _known.move_to_end(data)
    while len(_known) > REMEMBERED or sum(map(len, _known)) > REMEMBERED_BYTES:
        _known.popitem(last=False)
    return uses


async def _parsed(files: Tree) -> dict[str, list[str]]:
    """The files that are Python, and what they use."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-B", Path(__file__).with_name("parse.py"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    body = json.dumps({path: base64.b64encode(data).decode() for path, data in files.items()}).encode()
    try:
        async with asyncio.timeout(PARSE_SECONDS):
            said, _ = await process.communicate(body)
    except TimeoutError:
        return {}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return dict(json.loads(line) for line in said.decode().splitlines())
