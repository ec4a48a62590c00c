"""An image of this machine's programs runs: commands, the shell, Python."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from turnwise.sandbox import Sandbox, SandboxSpec
from turnwise.sandbox.images import Host, Store
from turnwise.sandbox.namespaces import NamespacesBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """On an image of this machine's shell and Python; its git would only take longer."""
    store = Store(tmp_path_factory.mktemp("images"))
    await asyncio.to_thread(store.build, "programs", Host(("sh", "python3")))
    root = await asyncio.to_thread(store.find, "programs")
    async with NamespacesBackend().running() as backend, await backend.create(SandboxSpec(root=root)) as made:
        yield made


async def test_python_has_its_library(sandbox: Sandbox) -> None:
    modules = (
        "asyncio, ctypes, decimal, email, json, lzma, sqlite3, ssl, unittest, xml.etree.ElementTree, zoneinfo"
    )
    program = f"import {modules}, threading; threading.Thread(target=print, args=('alive',)).start()"
    result = await sandbox.exec(["python3", "-c", program])
    assert (result.exit_code, result.stdout) == (0, b"alive\n"), result.stderr


async def test_its_compiled_modules_are_used(sandbox: Sandbox) -> None:
    """Nothing is compiled anew in each sandbox, which would take a while and room."""
    await sandbox.exec(["python3", "-c", "import argparse, asyncio, json, subprocess"])
    newer = await sandbox.exec("find / -xdev -name '*.pyc' -newer /etc/hostname")
    assert newer.stdout == b""


async def test_the_basics_are_there(sandbox: Sandbox) -> None:
    assert (await sandbox.shell("cd /tmp && seq 3 | grep 2 | sed s/2/two/ > file")).exit_code == 0
    assert (await sandbox.shell("cat file")).stdout == b"two\n"
    assert (await sandbox.exec(["/usr/bin/env", "pwd"])).stdout == b"/workspace\n"


async def test_it_tells_nothing_of_the_machine(sandbox: Sandbox) -> None:
    told = await sandbox.exec(
        "cat /etc/hostname /etc/hosts /etc/passwd; ls /etc/resolv.conf /etc/shadow /home"
    )
    assert os.uname().nodename.encode() not in told.stdout
    assert told.stderr.count(b"No such file") == 3
    assert (await sandbox.exec("find / -xdev -perm /6000 -o -xdev -name '*.key'")).stdout == b""


async def test_what_is_written_to_it_is_gone_with_the_sandbox(sandbox: Sandbox) -> None:
    assert sandbox.spec.root is not None
    await sandbox.write("/usr/bin/mine", b"#!/bin/sh\necho mine\n", mode=0o755)
    assert (await sandbox.exec("mine")).stdout == b"mine\n"
    assert not await asyncio.to_thread(Path(sandbox.spec.root, "usr/bin/mine").exists)
    await sandbox.recycle()
    assert (await sandbox.exec("mine")).exit_code == 127
