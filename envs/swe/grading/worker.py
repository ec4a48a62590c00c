"""The worker: holds the package under test and answers the judge, one request at a time.

    python3 -I -B bootstrap.py worker SOCKET

It runs in a sandbox that is thrown away with it, by the repository's interpreter (3.8 or newer), on the
standard library and the codec beside it, and knows neither tests nor expectations. All that it says is
hostile: the package runs in the same process and can say it in its place. So nothing here protects
anything; it only has to be fair to honest code.

Objects that are no plain values stay here and are known to the judge by a number, with what they look
like now (a *snapshot*): their classes, their attributes and, for subclasses of builtins, that value.
"""

from __future__ import annotations

import enum
import importlib
import json
import operator
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from turnwise.envs.swe.grading import codec

MOST_ITEMS = 20_000
"""Attributes and items in one snapshot; a larger object is opaque."""
BASES = (int, float, str, bytes, complex, tuple, list, dict, set, frozenset)
STATELESS = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in operator.__all__ if not name.startswith("i")},
    **{function.__name__: function for function in (len, iter, next, repr, str, int, float, list, round)},
    **{function.__name__: function for function in (setattr, delattr, divmod, reversed, format, bytes)},
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": lambda manager: type(manager).__exit__(manager, None, None, None),
}


class Ended(BaseException):
    """The judge hung up."""


class Worker:
    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rwb")
        self._codec = codec.Codec(self._refer, self._resolve)
        self._objects: list[Any] = []
        self._names: dict[int, list[str]] = {}
        self._left = 0
        self._active: list[int] = []
        self._number = 0

    # ------------------------------------------------------------ conversation
    def serve(self) -> None:
        hello = self._receive()
        sys.path[:0] = hello["roots"]
        self._public = hello["classes"]
        try:
            while True:
                self._answer(self._receive())
        except Ended:
            return

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise Ended
        message: dict[str, Any] = json.loads(line)
        self._number = message.get("n", 0)
        return message

    def _send(self, message: dict[str, Any]) -> None:
        message["n"] = self._number
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            self._send(self._reply(request))
        except Ended:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the package raises is its answer
            self._send({"raise": self._describe(error)})
        except BaseException as error:  # noqa: BLE001  # as is that it leaves by sys.exit()
            self._send({"left": type(error).__name__})

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        self._left = MOST_ITEMS
        if request["op"] == "surface":
            return {"return": surface(request["modules"], request["packages"])}
        args = [self._codec.decode(item) for item in request["args"]]
        kwargs = {name: self._codec.decode(item) for name, item in request.get("kwargs", {}).items()}
        if request["op"] == "get":
            value = getattr(args[0], request["name"])
        elif request["op"] == "call":
            value = args[0](*args[1:], **kwargs)
        else:
            value = OPERATIONS[request["op"]](*args)
        self._name_classes()
        reply = {"return": self._codec.encode(value)}
        reply["touched"] = {str(n): self._snapshot(self._objects[n]) for n in request["touches"]}
        if request.get("copyback"):
            reply["args"] = [self._codec.encode(item) for item in args[1:]]
        return reply

    # ------------------------------------------------------------ what the judge names
    def _resolve(self, tag: str, payload: Any, depth: int) -> Any:
        if tag == "object":
            return self._objects[payload]
        if tag in ("ref", "std"):
            return self._look_up(*payload)
        if tag == "callback":
            return lambda *args, **kwargs: self._call_back(payload, args, kwargs)
        raise codec.Malformed(tag)

    @staticmethod
    def _look_up(module: str, path: str) -> Any:
        value: Any = importlib.import_module(module)
        for name in path.split(".") if path else ():
            value = getattr(value, name)
        return value

    def _call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the judge run a function of the test's, answering what it asks meanwhile."""
        before, self._number = self._number, self._number
        self._left = MOST_ITEMS
        self._name_classes()
        encoded = {name: self._codec.encode(item) for name, item in kwargs.items()}
        self._send(
            {"callback": number, "args": [self._codec.encode(item) for item in args], "kwargs": encoded}
        )
        while "op" in (message := self._receive()):
            self._answer(message)
        self._number = before
        if "raise" in message:
            error = self._look_up(*message["raise"])(*self._codec.decode(message["args"]))
            error.__dict__["__callback_error__"] = message["token"]
            raise error
        return self._codec.decode(message["return"])

    # ------------------------------------------------------------ what the judge is told
    def _refer(self, value: Any, depth: int) -> Any:
        if id(value) in self._active:
            return {"cycle": len(self._active) - self._active.index(id(value))}
        self._objects.append(value)
        return {"object": {"id": len(self._objects) - 1, **self._snapshot(value, depth)}}

    def _snapshot(self, value: Any, depth: int = 0) -> dict[str, Any]:
        self._active.append(id(value))
        try:
            classes = [self._class_name(kind) for kind in type(value).__mro__[:-1] or (object,)]
            return {
                "classes": classes,
                "callable": callable(value),
                "base": self._base(value, depth),
                "state": self._state(value, depth),
            }
        finally:
            self._active.pop()

    def _base(self, value: Any, depth: int) -> Any:
        """``[v]`` for a subclass of a builtin whose value is v, else None."""
        for kind in BASES:
            if isinstance(value, kind) and self._spend(len(value) if isinstance(value, (list, dict)) else 1):
                return [self._codec.encode(_exact(kind, value), depth + 1)]
        return None

    def _state(self, value: Any, depth: int) -> Any:
        """Attributes by name; ``{}`` where there are none or too many to tell."""
        if isinstance(value, STATELESS):
            return {
                "__qualname__": f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
            }
        if isinstance(value, enum.Enum):
            return {"name": value.name, "value": self._codec.encode(value.value, depth + 1)}
        state = dict(getattr(value, "__dict__", None) or {})
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                name = f"_{kind.__name__.lstrip('_')}{name}" if name[:2] == "__" != name[-2:] else name
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    state[name] = getattr(value, name)
        if not self._spend(len(state)) or depth > codec.DEEPEST:
            return {}
        return {str(name): self._codec.encode(item, depth + 1) for name, item in state.items()}

    def _spend(self, items: int) -> bool:
        self._left -= items
        return self._left > 0

    def _class_name(self, kind: type) -> list[str]:
        return self._names.get(id(kind)) or [str(kind.__module__), str(kind.__qualname__)]

    def _name_classes(self) -> None:
        """Classes go by the names under which tests know them, wherever a submission defines them."""
        if not self._names:
            for module, path in self._public:
                try:
                    kind = self._look_up(module, path)
                except (ImportError, AttributeError):
                    continue
                self._names.setdefault(id(kind), [module, path])

    def _describe(self, error: Exception) -> dict[str, Any]:
        self._left, self._active = MOST_ITEMS, []
        self._name_classes()
        state = dict(error.__dict__)
        token = state.pop("__callback_error__", None)
        return {
            "classes": [self._class_name(kind) for kind in type(error).__mro__[:-1]],
            "args": self._codec.encode(list(error.args)),
            "text": str(error),
            "state": {str(name): self._codec.encode(value) for name, value in state.items()},
            "token": token,
        }


def surface(names: list[str], packages: list[str]) -> dict[str, Any]:
    """What these modules, and those of the packages that they lead to, offer: for calibration."""
    found: dict[str, Any] = {}
    while names:
        name = names.pop()
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue  # "from package import function" may have meant a module
        found[name] = [[attribute, *_kind(value)] for attribute, value in vars(module).items()]
        modules = {place[0][0] for _, kind, place in found[name] if kind == "module"}
        names += [other for other in modules - found.keys() if other.partition(".")[0] in packages]
    return found


def _exact(kind: Any, value: Any) -> Any:
    """The builtin that a subclass's instance stands on, past whatever it overrides."""
    if kind is dict:
        return dict(dict.items(value))
    if kind in (int, float, complex):
        return kind.__pos__(value)
    if kind is str:
        return str.__str__(value)
    return kind.__add__(value, b"") if kind is bytes else kind(kind.__iter__(value))


def _kind(value: Any) -> tuple[str, list[list[str]]]:
    """What a name of a module stands for, and where that is defined."""
    if isinstance(value, types.ModuleType):
        return "module", [[value.__name__, ""]]
    where = [str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))]
    if isinstance(value, type):
        mro = [[kind.__module__, kind.__qualname__] for kind in value.__mro__[:-1] or (object,)]
        return ("exception" if issubclass(value, BaseException) else "class"), mro
    return ("function", [where]) if callable(value) else ("value", [])


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        Worker(connection).serve()
