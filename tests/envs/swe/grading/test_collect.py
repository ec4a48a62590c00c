"""What of an agent's tree is graded, and what rejects it."""

from __future__ import annotations

import pytest

from turnwise.envs.swe.cheats.sample import sample
from turnwise.envs.swe.grading import Fault, Machines, Rejection, Rules, Submission, collect
from turnwise.sandbox import SandboxDied, SandboxSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

BASE = {
    "README.md": b"hello",
    "setup.py": b"",
    "src/pkg/__init__.py": b"",
    "src/pkg/core.py": b"x = 1\n",
    "src/pkg/data.json": b"{}",
    "src/pkg/tests/conftest.py": b"",
    "src/pkg/tests/test_core.py": b"assert 1\n",
}
RULES = Rules(sources=("src/pkg",), file_bytes=1000, bytes=1500, files=20, depth=4)


async def accepted(tree: dict[str, bytes]) -> Submission:
    found = await collect(tree, BASE, RULES)
    assert isinstance(found, Submission), found
    return found


async def test_source_is_taken_and_nothing_else() -> None:
    tree = BASE | {
        "notes.txt": b"mine",
        "conftest.py": b"evil",
        "setup.py": b"evil",
        "src/pytest.py": b"evil",
        "src/pkg/core.py": b"x = 2\n",
        "src/pkg/new/__init__.py": b"",
        "src/pkg/core.py.orig": b"x",
        "src/pkg/data.json": b"[]",
        "src/pkg/__pycache__/core.cpython-311.pyc": b"evil",
    }
    assert (await accepted(tree)).files == {
        "src/pkg/__init__.py": b"",
        "src/pkg/core.py": b"x = 2\n",
        "src/pkg/new/__init__.py": b"",
        "src/pkg/tests/conftest.py": b"",
        "src/pkg/tests/test_core.py": b"assert 1\n",
    }


async def test_what_was_deleted_stays_deleted_and_tests_stay_the_bases() -> None:
    tree = {"src/pkg/__init__.py": b"", "src/pkg/tests/test_core.py": b"pass", "src/pkg/test_mine.py": b"("}
    found = await accepted(tree)
    assert found.files == {"src/pkg/__init__.py": b"", "src/pkg/tests/test_core.py": b"assert 1\n"}


@pytest.mark.parametrize(
    ("path", "data", "fault"),
    [
        ("src/pkg/sitecustomize.py", b"", Fault.RESERVED),
        ("src/pkg/conftest.py", b"", Fault.RESERVED),
        ("src/pkg/tests/conftest.py", b"changed", Fault.RESERVED),
        ("src/pkg/fast.so", b"", Fault.COMPILED),
        ("src/pkg/x.PYC", b"", Fault.COMPILED),
        ("src/pkg/x.pth", b"", Fault.COMPILED),
        ("src/pkg/core/__init__.py", b"", Fault.SHADOW),
        ("src/pkg/p\u0430th.py", b"", Fault.NAME),
        ("src/pkg/a b.py", b"", Fault.NAME),
        ("src/pkg/a\nb.py", b"", Fault.NAME),
        ("src/pkg/a-b/c.py", b"", Fault.NAME),
        ("src/pkg/.hidden.py", b"", Fault.NAME),
        ("src/pkg/a/b/c/d.py", b"", Fault.DEEP),
        ("src/pkg/big.py", b"#" * 1001, Fault.LARGE),
        ("src/pkg/odd.py", b"x = '\xe9'", Fault.ENCODING),
        ("src/pkg/bad.py", b"def (", Fault.SYNTAX),
        ("src/pkg/zero.py", b"x = 1\0", Fault.SYNTAX),
        ("src/pkg/deep.py", b"x = " + b"(" * 500, Fault.SYNTAX),
    ],
)
async def test_what_could_change_who_is_asked_rejects_the_tree(path: str, data: bytes, fault: Fault) -> None:
    assert await collect(BASE | {path: data}, BASE, RULES) == Rejection(fault=fault, path=path)


async def test_bounds_hold_for_all_files_together() -> None:
    many = {f"src/pkg/m{n}.py": b"" for n in range(20)}
    large = {f"src/pkg/m{n}.py": b"#" * 900 for n in range(2)}
    for tree, fault in ((BASE | many, Fault.MANY), (BASE | large, Fault.LARGE), ({}, Fault.MISSING)):
        found = await collect(tree, BASE, RULES)
        assert isinstance(found, Rejection)
        assert found.fault == fault


async def test_what_the_changes_use_is_told() -> None:
    found = await accepted(
        BASE | {"src/pkg/core.py": b"import gc, json\nclass X:\n  def __eq__(self, o): return eval('1')\n"}
    )
    assert found.uses == ("def __eq__", "eval()", "import gc")
    assert (await accepted(dict(BASE))).uses == ()


# ---------------------------------------------------------------- from a sandbox
@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("ln -s /etc/passwd src/pkg/x.py", Fault.LINK),
        ("ln src/pkg/core.py src/pkg/again.py", Fault.LINK),
        ("ln src/pkg/core.py /tmp/again", Fault.LINK),
        ("mkfifo src/pkg/pipe.py", Fault.SPECIAL),
        ("mv src/pkg /tmp/pkg; ln -s /tmp/pkg src/pkg", Fault.LINK),
        ("mv src /tmp/src; ln -s /tmp/src src", Fault.LINK),
        ("rm -r src/pkg; touch src/pkg", Fault.SPECIAL),
        ("rm -r src", Fault.MISSING),
        ("chmod 000 src/pkg", Fault.UNREADABLE),
        ("truncate -s 1G src/pkg/huge.py || truncate -s 100M src/pkg/huge.py", Fault.LARGE),
        ("cd src/pkg; for i in $(seq 60); do : > m$i.txt; done", Fault.MANY),
        ("mkdir -p src/pkg/1/2/3/4/5/6/7", Fault.DEEP),
    ],
)
async def test_what_a_tree_of_bytes_would_hide_is_seen(
    machines: Machines, command: str, fault: Fault
) -> None:
    sandbox = await machines.backend.create(SandboxSpec())
    await sandbox.write_tree(BASE)
    await sandbox.exec(command)
    found = await collect(sandbox, BASE, RULES)
    assert isinstance(found, Rejection)
    assert found.fault == fault
    with pytest.raises(SandboxDied):
        await sandbox.read("README.md")


async def test_a_sandboxs_source_is_taken_while_nothing_runs_in_it(machines: Machines) -> None:
    sandbox = await machines.backend.create(SandboxSpec())
    await sandbox.write_tree(BASE)
    writer = "while :; do for f in src/pkg/*.py; do echo 'y = 1' >> $f; rm $f.x; ln -s a $f.x; done; done"
    await sandbox.shell(
        f"echo 'x = 3' > src/pkg/core.py; ({writer}) >/dev/null 2>&1 & sleep 0.1; rm -f src/pkg/*.x"
    )
    found = await collect(sandbox, BASE, RULES)
    assert isinstance(found, Submission | Rejection)
    if isinstance(found, Submission):
        assert found.files["src/pkg/core.py"].startswith(b"x = 3\n")


async def test_a_sandbox_that_died_is_no_rejection(machines: Machines) -> None:
    sandbox = await machines.backend.create(SandboxSpec())
    await sandbox.close()
    with pytest.raises(SandboxDied):
        await collect(sandbox, BASE, RULES)


async def test_a_single_module_can_be_the_source(machines: Machines) -> None:
    rules = Rules(sources=("tool.py",))
    assert (rules.roots, rules.packages) == ((".",), ("tool",))
    sandbox = await machines.backend.create(SandboxSpec())
    await sandbox.write_tree({"tool.py": b"x = 1\n", "other.py": b"y = 1\n"})
    found = await collect(sandbox, {"tool.py": b""}, rules)
    assert isinstance(found, Submission)
    assert found.files == {"tool.py": b"x = 1\n"}


@pytest.mark.parametrize("source", ["/abs/pkg", "../pkg", "a-b"])
async def test_sources_are_relative_and_importable(source: str) -> None:
    with pytest.raises(ValueError, match="no relative path"):
        Rules(sources=(source,))


async def test_the_samples_trees_are_accepted() -> None:
    found = sample()
    for tree in (found.base, found.reference, found.another):
        assert isinstance(await collect(tree, found.base, found.suite.rules), Submission)
