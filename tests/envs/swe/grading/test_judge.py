"""What a test can do with a package that is in another process, and what that package cannot do to it.

The worker is the real one, as a process of this machine; the code in it is this file's.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.envs.swe.grading import bootstrap
from turnwise.envs.swe.grading.judge.finder import Finder
from turnwise.envs.swe.grading.judge.link import Bounds, Link, NotSplittable, Violation
from turnwise.envs.swe.grading.judge.rebuilt import Exceptions
from turnwise.envs.swe.grading.judge.session import Conversation, Session

BOUNDS = Bounds(call_seconds=120.0, test_seconds=300.0, calls=100, message_bytes=1 << 20)

PACKAGE = """
    import enum

    LIMIT = 7

    class ShapeError(ValueError):
        def __init__(self, code):
            super().__init__(f"code {code}")
            self.code = code

    class Narrow(ShapeError): pass

    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    class Vec:
        seen = []
        def __init__(self, x, y):
            self.x, self.y = x, y
            for other in Vec.seen:
                other.x, other.y = x, y
        def __add__(self, other):
            total = Vec(0, 0)
            Vec.seen.append(total)
            return total
        def __eq__(self, other): return True
        def __len__(self): return 2
        def __iter__(self): yield self.x; yield self.y
        def move(self, by): self.x += by; return self

    class Text(str):
        def __eq__(self, other): return True
        __hash__ = str.__hash__

    class Yes:
        def __bool__(self): return True

    def double(number): return 2 * number
    def apply(function, *items): return [function(item) for item in items]
    def refuse(code): raise Narrow(code)
    def text(value): return Text(value)
    def yes(): return Yes()
    def clear(items): items.clear()
    def leave(): raise SystemExit(0)
    def nothing(): return object()
    def colour(number): return Colour(number)
    def crash():
        import os
        os._exit(0)
"""


class Workers:
    """Starts workers over a folder of code; each link has a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count()
        self._started: list[tuple[subprocess.Popen[bytes], Link]] = []
        self.classes: list[Any] = []
        self.notes: list[str] = []

    def connect(self) -> Link:
        path = str(self._folder / f"s{next(self._numbers)}")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            program = [sys.executable, "-I", "-B", bootstrap.__file__, "worker", path]
            process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
            hello = {"roots": [str(self._folder)], "classes": self.classes}
            link = Link(listener.accept()[0], hello, BOUNDS, self.notes.append)
        self._started.append((process, link))
        return link

    def close(self) -> None:
        for process, link in self._started:
            link.close()
            process.kill()
            process.wait()


class Package:
    """The package as a test imports it, and the session it is in."""

    def __init__(self, session: Session, workers: Workers, module: Any) -> None:
        self.session, self.workers, self.module = session, workers, module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    (tmp_path / "shapes.py").write_text(textwrap.dedent(PACKAGE))
    workers = Workers(tmp_path)
    exceptions: dict[tuple[str, str], Any] = {}
    session = Session(workers.connect, Exceptions(exceptions))
    told = session.current.surface(["shapes"], ["shapes"])
    surface = {
        module: [(name, what, [(place[0], place[1]) for place in places]) for name, what, places in entries]
        for module, entries in told.items()
    }
    session.end()
    finder = Finder(["shapes"], surface)
    workers.classes += finder.public.values()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    exceptions |= finder.install(session)
    try:
        yield Package(session, workers, importlib.import_module("shapes"))
    finally:
        del sys.modules["shapes"]
        workers.close()


def test_values_go_and_come_back(package: Package) -> None:
    assert package.double(21) == 42
    assert package.double([1, (2,)]) == [1, (2,), 1, (2,)]
    assert package.LIMIT == 7
    assert package.apply(len, "ab", [1, 2, 3]) == [2, 3]


def test_functions_of_a_test_are_called_where_the_test_is(package: Package) -> None:
    seen: list[int] = []

    def note(item: int) -> int:
        seen.append(item)
        return item + 1

    assert package.apply(note, 1, 2) == [2, 3]
    assert seen == [1, 2]


def test_an_exception_of_a_tests_function_comes_back_itself(package: Package) -> None:
    error = LookupError("mine")

    def fail(_: object) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        package.apply(fail, 1)
    assert caught.value is error


def test_exceptions_of_the_package_are_of_its_classes(package: Package) -> None:
    with pytest.raises(package.ShapeError, match="code 4") as caught:
        package.refuse(4)
    assert type(caught.value) is package.Narrow
    assert caught.value.code == 4
    assert isinstance(caught.value, ValueError)
    with pytest.raises(TypeError):
        package.double(None)


def test_leaving_is_no_answer(package: Package) -> None:
    with pytest.raises(Violation):
        package.leave()
    assert package.workers.notes


def test_a_worker_that_ends_is_noted_even_if_the_test_swallows_it(package: Package) -> None:
    with contextlib.suppress(BaseException):  # what a bad test might do
        package.crash()
    assert package.workers.notes == ["the worker ended"]


def test_what_a_result_looks_like_is_fixed_when_it_arrives(package: Package) -> None:
    """In this package a sum takes on the values of whatever vector is made next."""
    total = package.Vec(1, 2) + package.Vec(3, 4)
    assert (total.x, total.y) == (0, 0)
    assert total != package.Vec(4, 6)
    assert (total.x, total.y) == (0, 0)


def test_objects_are_compared_here_by_what_they_look_like(package: Package) -> None:
    assert package.Vec(1, 2) == package.Vec(1, 2)
    assert package.Vec(1, 2) != package.Vec(1, 3)  # its own == is always true
    assert package.colour(2) == package.session.expected(lambda: package.Colour.BLUE)
    assert package.colour(2) != package.session.expected(lambda: package.Colour.RED)
    assert package.text("a") == "a"
    assert package.text("a") != "b"


def test_a_method_changes_what_its_object_looks_like(package: Package) -> None:
    vector = package.Vec(1, 2)
    vector.move(5)
    assert (vector.x, list(vector), len(vector)) == (6, [6, 2], 2)
    assert isinstance(vector, package.Vec)
    assert not isinstance(vector, package.Colour)


def test_the_truth_of_an_object_is_not_asked(package: Package) -> None:
    with pytest.raises(NotSplittable):
        assert package.yes()
    with pytest.raises(NotSplittable):
        assert package.nothing() == package.nothing()


def test_arguments_come_back_only_where_they_may(package: Package) -> None:
    items = [1]
    package.clear(items)
    assert items == [1]
    package.session.end()
    package.session.copyback = True
    package.clear(items)
    assert items == []


def test_expectations_are_built_elsewhere(package: Package) -> None:
    total = package.Vec(1, 2) + package.Vec(3, 4)
    assert total != package.session.expected(lambda: package.Vec(4, 6))
    with pytest.raises(NotSplittable):
        package.double(package.session.expected(lambda: package.Vec(4, 6)))


def test_the_package_is_neither_patched_nor_derived_from(package: Package) -> None:
    with pytest.raises(NotSplittable):
        package.module.double = None
    with pytest.raises(NotSplittable):
        type("Mine", (package.Vec,), {})
    with pytest.raises(NotSplittable):
        package.double(object())
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("shapes.more")


def test_a_test_makes_so_many_calls_and_no_more(package: Package) -> None:
    for number in range(BOUNDS.calls):
        assert package.double(number) == 2 * number
    with pytest.raises(Violation):
        package.double(0)


# ---------------------------------------------------------------- a worker that says what it likes
def scripted(reply: Callable[[int], bytes]) -> tuple[Conversation, list[str]]:
    """A conversation with a worker that answers its first request with these bytes."""
    notes: list[str] = []
    ours, mine = socket.socketpair()

    def serve() -> None:
        with mine, mine.makefile("rb") as lines:
            hello, request = lines.readline(), lines.readline()
            if hello and request:
                mine.sendall(reply(json.loads(request)["n"]))

    threading.Thread(target=serve, daemon=True).start()
    link = Link(ours, {}, Bounds(120.0, 300.0, 10, 1 << 16), notes.append)
    return Conversation(link, Exceptions({})), notes


replies: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "object",
                    "id",
                    "classes",
                    "base",
                    "state",
                    "callable",
                    "args",
                    "text",
                    "token",
                    "tuple",
                    "dict",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["return", "raise", "touched", "args", "callback", "kwargs", "left"]),
        replies,
        max_size=4,
    )
)
def test_no_reply_gets_past_the_protocol(reply: dict[str, Any]) -> None:
    """It is a value, an ``Exception`` of a class the judge has itself, or a violation that is noted."""
    raised: BaseException | None
    line = lambda n: json.dumps({**reply, "n": n}).encode() + b"\n"  # noqa: E731
    conversation, notes = scripted(line)
    try:
        conversation.ask("call", [len, 1])
    except BaseException as error:  # noqa: BLE001  # which of them is the question
        raised = error
    else:
        raised = None
    finally:
        conversation.link.close()
    if isinstance(raised, Exception):
        assert type(raised).__module__ in ("builtins", "turnwise.envs.swe.grading.judge.rebuilt")
    elif raised is not None:
        assert isinstance(raised, Violation)
        assert notes


@pytest.mark.parametrize(
    "reply",
    [b"", b"\n", b"no json\n", b"[]\n", b'{"n": 2}\n', b"\xff\xfe\n", b"[" * 60_000 + b"\n", b"x" * 70_000],
)
def test_a_line_that_is_no_reply_is_a_violation(reply: bytes) -> None:
    conversation, notes = scripted(lambda _: reply)
    with pytest.raises(Violation):
        conversation.ask("call", [len, 1])
    assert notes
    conversation.link.close()


def test_a_second_answer_is_a_violation() -> None:
    conversation, notes = scripted(lambda n: b'{"n": 1, "return": 5, "touched": {}}\n' * 2)
    assert conversation.ask("call", [len, 1]) == 5
    with pytest.raises(Violation):
        conversation.link.check_silence()
    assert notes
    conversation.link.close()
