"""The judge's dealings with workers: which one a request goes to, and values from and to it.

There is one worker for each test, one for what test modules ask when they are imported, and one more in a
test for ``expected``, which therefore cannot know what the first has answered. An object belongs to its
worker: what would carry it to another is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from turnwise.envs.swe.grading import codec
from turnwise.envs.swe.grading.judge import handles, rebuilt
from turnwise.envs.swe.grading.judge.link import Link, Message, NotSplittable, text_list
from turnwise.envs.swe.grading.judge.remote import Remote, reference_of


class Conversation:
    """With one worker."""

    def __init__(self, link: Link, exceptions: rebuilt.Exceptions, *, copyback: bool = False) -> None:
        self.link, self._copyback = link, copyback
        self._exceptions = exceptions
        self._codec = codec.Codec(self._refer, self._resolve)
        self._callbacks: list[Callable[..., Any]] = []
        self._raised: list[Exception] = []
        self._touched: dict[int, handles.Handle] = {}

    # ------------------------------------------------------------ requests
    def ask(
        self,
        op: str,
        args: Sequence[Any],
        kwargs: dict[str, Any] | None = None,
        *,
        name: str = "",
        copyback: bool = False,
    ) -> Any:
        """Have the worker do something; its value, or the exception it raised."""
        self._touched = {}
        message: Message = {"op": op, "name": name, "copyback": copyback}
        message["args"] = [self._codec.encode(item) for item in args]
        message["kwargs"] = {key: self._codec.encode(item) for key, item in (kwargs or {}).items()}
        touched, message["touches"] = self._touched, list(self._touched)
        reply = self.link.request(message, self._run_callback)
        try:
            if "raise" in reply:
                raised = self._exception(reply["raise"])
            elif "left" in reply:
                raise self.link.violation("the package left by an exception that is no Exception")
            else:
                for number, handle in touched.items():
                    handles.commit(handle, self._snapshot(reply["touched"][str(number)], 0))
                value = self._codec.decode(reply["return"])
                if copyback:
                    handles.copy_back(list(args[1:]), self._codec.decode(reply["args"]))
                return value
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise self.link.violation(f"a malformed reply: {error}") from None
        raise raised

    def call(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return self.ask("call", [target, *args], kwargs, copyback=self._copyback)

    def surface(self, modules: Sequence[str], packages: Sequence[str]) -> Any:
        """What modules of the reference offer. For calibration: the answer is trusted."""
        message: Message = {"op": "surface", "modules": modules, "packages": packages}
        reply = self.link.request(message, self._run_callback)
        if "return" not in reply:
            raise self.link.violation(f"the reference cannot be imported: {reply}")
        return reply["return"]

    def _run_callback(self, request: Message) -> Message:
        try:
            function = self._callbacks[request["callback"]]
            args = self._codec.decode(request["args"])
            kwargs = {str(key): self._codec.decode(item) for key, item in request["kwargs"].items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self.link.violation(f"a malformed callback: {error}") from None
        try:
            return {"return": self._codec.encode(function(*args, **kwargs))}
        except Exception as error:  # noqa: BLE001  # goes back to where the worker called
            self._raised.append(error)
            where, plain = self._exceptions.told(error)
            arguments = self._codec.encode(list(error.args) if plain else [str(error)])
            return {"raise": where, "args": arguments, "token": len(self._raised) - 1}

    # ------------------------------------------------------------ values
    def _refer(self, value: Any, depth: int) -> Any:
        if isinstance(value, handles.Handle):
            number = handles.number_of(value, self)
            self._touched[number] = value
            if (owner := handles.owner_of(value)) is not None:
                self._touched[handles.number_of(owner, self)] = owner
            return {"object": number}
        if (reference := reference_of(value)) is not None:
            return {"ref": list(reference)}
        if (standard := _standard(value)) is not None:
            return {"std": list(standard)}
        if callable(value) and not isinstance(value, type):
            self._callbacks.append(value)
            return {"callback": len(self._callbacks) - 1}
        raise NotSplittable(f"a {type(value).__name__} cannot be given to the package under test")

    def _resolve(self, tag: str, payload: Any, depth: int) -> Any:
        if tag == "cycle" and type(payload) is int:
            return handles.Cycle(payload)
        if tag != "object" or type(payload) is not dict or type(payload.get("id")) is not int:
            raise codec.Malformed("a tag that is none")
        return handles.new(self, payload["id"], self._snapshot(payload, depth))

    def _snapshot(self, data: Message, depth: int) -> handles.Snapshot:
        classes = tuple((module, name) for module, name in (text_list(item, 2) for item in data["classes"]))
        base, state = data["base"], data["state"]
        if type(data["callable"]) is not bool or type(state) is not dict or not classes:
            raise codec.Malformed("no snapshot")
        decoded = {str(name): self._codec.decode(item, depth + 2) for name, item in state.items()}
        only = None if base is None else (self._codec.decode(base[0], depth + 2),)
        return handles.Snapshot(classes, data["callable"], only, decoded)

    def _exception(self, data: Message) -> Exception:
        token = data["token"]
        if type(token) is int and 0 <= token < len(self._raised):
            return self._raised[token]
        classes = [tuple(text_list(item, 2)) for item in data["classes"]]
        args, text = self._codec.decode(data["args"]), data["text"]
        if type(args) is not list or type(text) is not str or type(data["state"]) is not dict:
            raise codec.Malformed("no exception")
        state = {str(name): self._codec.decode(item) for name, item in data["state"].items()}
        return self._exceptions.make(classes, args, text, state)


class Session:
    """All conversations of one judging. ``connect`` starts one with a new worker."""

    def __init__(self, connect: Callable[[], Link], exceptions: rebuilt.Exceptions) -> None:
        self._connect, self._exceptions = connect, exceptions
        self._first: Conversation | None = None
        self._second: Conversation | None = None
        self._expecting = False
        self.copyback = False

    @property
    def current(self) -> Conversation:
        if self._expecting:
            self._second = self._second or self._begin()
            return self._second
        self._first = self._first or self._begin()
        return self._first

    def _begin(self) -> Conversation:
        return Conversation(self._connect(), self._exceptions, copyback=self.copyback)

    def call(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return self.current.call(target, args, kwargs)

    def get(self, target: Any, name: str) -> Any:
        return self.current.ask("get", [target], name=name)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Within, requests go to the second worker."""
        before, self._expecting = self._expecting, True
        try:
            yield
        finally:
            self._expecting = before

    def expected(self, build: Callable[[], Any]) -> Any:
        """What ``build`` makes with the package in a worker that has seen nothing of the test."""
        with self.expecting():
            return build()

    def end(self) -> None:
        """Let go of the workers. Raises ``Violation`` where one has said more than it was asked."""
        conversations = [held for held in (self._first, self._second) if held is not None]
        self._first = self._second = None
        try:
            for conversation in conversations:
                conversation.link.check_silence()
        finally:
            for conversation in conversations:
                conversation.link.close()


def _standard(value: Any) -> tuple[str, str] | None:
    """Where a function or class of the standard library is found, if it is one."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or isinstance(value, Remote):
        return None
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is value else None
