"""The tools an agent repairs a repository with: a shell, views and edits of files, search, tests.

Everything happens in the episode's own sandbox, on its real files. Edits are confined to the repository and
exact: what is replaced must be there once. Messages are short and say what to do instead.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager

from turnwise.envs.env import Env
from turnwise.envs.swe.task import SweTask
from turnwise.envs.swe.testing import command, environment
from turnwise.envs.swe.watch import Watch
from turnwise.envs.tool import ToolError, tool
from turnwise.sandbox.contract import ExecResult

VIEWED_LINES = 400
"""Lines of one view, unless fewer were asked for."""
FOUND_LINES = 100


class Scaffold(Env):
    """The tools, and what they know of the episode."""

    swe: SweTask
    watch: Watch

    def start(self, task: SweTask) -> None:
        """Forget everything but a task."""
        self.swe, self.watch = task, Watch(task.at)
        self.opened: set[str] = set()
        self.searched: set[str] = set()
        self.versions: dict[str, list[bytes | None]] = {}
        """What each edited file held before every edit of it."""
        self.tested = self.submitted = False
        self.tests_ran = 0

    # -- looking

    @tool
    async def shell(self, command: str) -> str:
        """Run a command in a shell that keeps its directory and variables."""
        await self.watch.before_command(self.sandbox)
        result = await self.sandbox.shell(command, timeout=self.swe.limits.command_seconds)
        return _told(result, self.swe.limits.command_seconds) or "(no output)"

    @tool
    async def view(self, path: str, first: int = 1, last: int = 0) -> str:
        """Show a file with its line numbers, all of it or lines first to last; or what is in a folder."""
        relative = self._inside(path)
        with telling(path):
            if (await self.sandbox.stat(self._place(relative))).kind == "directory":
                entries = await self.sandbox.list(self._place(relative))
                return "\n".join(f"{e.name}/" if e.kind == "directory" else e.name for e in entries)
        lines = (await self._text(relative)).splitlines()
        first, end = max(first, 1), min(last or len(lines), len(lines))
        if last and last < first:
            raise ToolError(f"lines {first} to {last} are none; give first <= last")
        shown = min(end, first + VIEWED_LINES - 1) if not last else end
        self.opened.add(relative)
        if self.swe.terse:
            return "\n".join(lines[first - 1 : shown])
        numbered = [f"{number:>5}  {lines[number - 1]}" for number in range(first, shown + 1)]
        if shown < end:
            numbered.append(f"[… lines {shown + 1} to {end} not shown; view from {shown + 1} …]")
        return "\n".join(numbered) or "(empty)"

    @tool
    async def search(self, pattern: str, path: str = ".") -> str:
        """Lines that match a regular expression, in all files below a path."""
        self.searched.add(pattern)
        try:
            with telling(path):
                found = await self.sandbox.search(
                    pattern, self._place(self._inside(path)), limit=10 * FOUND_LINES
                )
        except ValueError as error:
            raise ToolError(str(error)) from None
        prefix = f"{self.swe.at}/"
        matches = [(m.path.removeprefix(prefix), m) for m in found if "/.git/" not in m.path]
        if self.swe.terse:
            paths = dict.fromkeys(path for path, _ in matches if self.swe.is_source(path))
            return " ".join(paths) or "none"
        lines = [f"{path}:{m.line}: {m.text}" for path, m in matches[:FOUND_LINES]]
        if len(matches) > FOUND_LINES:
            lines.append(f"[… more than {FOUND_LINES} lines match; be more specific …]")
        return "\n".join(lines) or "no match"

    @tool
    async def test(self, path: str = "") -> str:
        """Run the repository's tests, or those of a file, folder or test id."""
        tests = [path] if path else list(self.swe.visible)
        if not tests:
            raise ToolError("name a test file, folder or id to run")
        if path.startswith("-"):
            raise ToolError("name a test file, folder or id; options are not taken")
        await self.watch.before_command(self.sandbox)
        seconds = self.swe.limits.test_seconds
        with telling(self.swe.at):
            result = await self.sandbox.exec(
                command(self.swe, tests), cwd=self.swe.at, env=environment(self.swe), timeout=seconds
            )
        self.tested = True
        self.tests_ran += 1
        if self.swe.terse:
            return result.stdout.decode(errors="replace").strip() or "fail"
        return _told(result, seconds) or "(no output)"

    # -- changing

    @tool
    async def replace(self, path: str, old: str, new: str) -> str:
        """Replace a piece of a file. The old text must be in it exactly once, to the last space."""
        relative = self._inside(path)
        text = await self._text(relative)
        count = text.count(old) if old else 0
        if self.swe.terse and count != 1:
            raise ToolError("no match" if not count else "many")
        if count == 0:
            raise ToolError(f"the old text is not in {path}; view the file and copy the lines exactly")
        if count > 1:
            raise ToolError(
                f"the old text is in {path} {count} times; add lines around it until it is unique"
            )
        return await self._edit(relative, text.encode(), text.replace(old, new).encode())

    @tool
    async def create(self, path: str, content: str) -> str:
        """Write a new file."""
        relative = self._inside(path)
        try:
            with telling(path):
                await self.sandbox.stat(self._place(relative))
        except ToolError:
            return await self._edit(relative, None, content.encode())
        raise ToolError(f"{path} exists; use replace, or insert")

    @tool
    async def insert(self, path: str, line: int, text: str) -> str:
        """Put text into a file as lines of their own, after a line; 0 is the beginning."""
        relative = self._inside(path)
        before = await self._text(relative)
        lines = before.splitlines(keepends=True)
        if not 0 <= line <= len(lines):
            raise ToolError(f"{path} has {len(lines)} lines; give a line from 0 to {len(lines)}")
        if line and not lines[line - 1].endswith("\n"):
            lines[line - 1] += "\n"
        lines.insert(line, text if text.endswith("\n") else f"{text}\n")
        return await self._edit(relative, before.encode(), "".join(lines).encode())

    @tool
    async def undo(self, path: str) -> str:
        """Take back the last edit of a file that was made with these tools."""
        relative = self._inside(path)
        if not self.versions.get(relative):
            raise ToolError(f"nothing to undo in {path}" if not self.swe.terse else "nothing")
        before = self.versions[relative].pop()
        await self._put(relative, before)
        return "ok" if self.swe.terse else f"{path} is as it was before the last edit"

    @tool(submits=True)
    async def submit(self) -> str:
        """Hand the repository in as it is; ends the task."""
        self.submitted = True
        return "submitted"

    # -- files

    def _inside(self, path: str) -> str:
        """A path relative to the repository. Raises ``ToolError`` for one that leads out of it."""
        place = posixpath.normpath(posixpath.join(self.swe.at, path))
        relative = posixpath.relpath(place, self.swe.at)
        if relative.startswith("..") or "\0" in path:
            raise ToolError(f"{path!r} is outside the repository; give a path below {self.swe.at}")
        if relative.split("/")[0] == ".git":
            raise ToolError("the history is not to be touched; name a file of the repository")
        return relative

    def _place(self, relative: str) -> str:
        return posixpath.normpath(posixpath.join(self.swe.at, relative))

    async def _text(self, relative: str) -> str:
        with telling(relative):
            data = await self.sandbox.read(self._place(relative))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ToolError(f"{relative} is no text in UTF-8; use the shell") from None

    async def _edit(self, relative: str, before: bytes | None, after: bytes) -> str:
        if before == after:
            raise ToolError("nothing would change")
        await self._put(relative, after)
        self.versions.setdefault(relative, []).append(before)
        return "ok" if self.swe.terse else f"{relative} was {'created' if before is None else 'changed'}"

    async def _put(self, relative: str, data: bytes | None) -> None:
        self.tested = False
        with telling(relative):
            if data is None:
                await self.sandbox.delete(self._place(relative))
            else:
                await self.sandbox.write(self._place(relative), data, mode=await self._mode(relative))
        self.watch.wrote(relative, data)

    async def _mode(self, relative: str) -> int:
        try:
            return (await self.sandbox.stat(self._place(relative))).mode
        except FileNotFoundError:
            return 0o644


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Tell the agent what is wrong with a path of its own."""
    try:
        yield
    except FileNotFoundError:
        raise ToolError(f"there is no {path}") from None
    except IsADirectoryError:
        raise ToolError(f"{path} is a folder; name a file in it") from None
    except NotADirectoryError:
        raise ToolError(f"{path} is no folder, or below a file") from None
    except OSError as error:
        raise ToolError(f"{path}: {(error.strerror or 'not possible').lower()}") from None


def _told(result: ExecResult, seconds: float) -> str:
    """A command's output, and how it ended where that is not as it should be."""
    parts = [stream.decode(errors="replace").rstrip() for stream in (result.stdout, result.stderr)]
    if result.truncated:
        parts.append("[… output was cut …]")
    if result.timed_out:
        parts.append(f"[ended after {seconds:g} s; start long work in the background]")
    elif result.limit is not None:
        parts.append(f"[ended by the limit on {result.limit}]")
    elif result.exit_code:
        parts.append(f"[exit {result.exit_code}]")
    return "\n".join(part for part in parts if part)
