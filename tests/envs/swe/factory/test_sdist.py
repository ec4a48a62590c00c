"""Source distributions are archives: what leads out of them is left, and nothing in them runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.envs.swe.factory.conftest import FILES, write_sdist
from turnwise.envs.errors import UsageError
from turnwise.envs.swe.factory import pip_alone
from turnwise.envs.swe.factory.layout import lay_out
from turnwise.envs.swe.factory.problems import PackageFault, PackageProblem
from turnwise.envs.swe.factory.sdist import check_source, read_sdist


def test_an_archive_is_read_with_name_version_and_hash(sdist: Path) -> None:
    found = read_sdist(sdist)
    assert (found.name, found.version, found.file) == ("pack", "1.0", "pack-1.0.tar.gz")
    assert found.files["src/pack/names.txt"] == b"ada\n"
    assert len(found.sha256) == 64


def test_a_zip_is_read_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pack-1.0.zip", "w") as archive:
        for path, text in FILES.items():
            archive.writestr(f"pack-1.0/{path}", text)
    assert read_sdist(tmp_path / "pack-1.0.zip").files["setup.py"]


def test_links_and_paths_that_lead_out_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pack-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("pack-1.0/PKG-INFO", "pack-1.0/../../evil.py", "/pack-1.0/evil.py"):
            data = FILES["PKG-INFO"].encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("pack-1.0/passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert set(read_sdist(path).files) == {"PKG-INFO"}


def test_what_is_no_source_distribution_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn-1.0.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(PackageProblem, match=r"torn-1\.0\.tar\.gz: it cannot be read") as failed:
        read_sdist(tmp_path / "torn-1.0.tar.gz")
    assert failed.value.fault is PackageFault.ARCHIVE
    with pytest.raises(PackageProblem, match="it has no PKG-INFO"):
        read_sdist(write_sdist(tmp_path, {"setup.py": ""}))


def test_a_source_that_is_none_is_refused() -> None:
    for source in ("toolz", "toolz>=1", "gone-1.0.tar.gz", "--index-url=x"):
        with pytest.raises(UsageError, match="--from"):
            check_source(source)
    check_source("more-itertools==10.7.0")


def test_pip_asks_no_build_backend(tmp_path: Path) -> None:
    files = FILES | {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    }
    files["evil.py"] = f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n"
    files["setup.py"] = files["evil.py"]
    source = write_sdist(tmp_path, files)
    command = [sys.executable, "-B", pip_alone.__file__, "download", "--no-deps", "--no-build-isolation"]
    command += ["--use-pep517", "--no-index", "--quiet", "--dest", str(tmp_path / "got"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "got") == ["pack-1.0.tar.gz"]
    assert not (tmp_path / "ran").exists()


def test_package_and_tests_are_found_below_src(sdist: Path) -> None:
    layout = lay_out(read_sdist(sdist))
    assert layout.sources == ("src/pack",)
    assert layout.modules == ("src/pack/__init__.py", "src/pack/shapes.py", "src/pack/words.py")
    assert layout.tests == ("tests/test_needs.py", "tests/test_shapes.py", "tests/test_words.py")
    assert "tox.ini" not in layout.files


def test_single_modules_and_tests_within_the_package_are_found(tmp_path: Path) -> None:
    files = {
        "PKG-INFO": FILES["PKG-INFO"],
        "one.py": "X = 1\n",
        "setup.py": "",
        "test_one.py": "",
        "docs/conf.py": "",
    }
    assert lay_out(read_sdist(write_sdist(tmp_path, files))).sources == ("one.py",)
    files |= {
        "two/__init__.py": "",
        "two/tests/__init__.py": "",
        "two/tests/test_two.py": "",
        "two/work.py": "",
    }
    layout = lay_out(read_sdist(write_sdist(tmp_path, files)))
    assert layout.sources == ("one.py", "two")
    assert layout.modules == ("one.py", "two/__init__.py", "two/work.py")
    assert layout.tests == ("test_one.py", "two/tests/test_two.py")


def test_packages_without_code_or_tests_are_named(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(PackageProblem) as failed:
        lay_out(read_sdist(bare))
    assert failed.value.fault is PackageFault.NO_TESTS
    with pytest.raises(PackageProblem) as failed:
        lay_out(read_sdist(write_sdist(tmp_path, {"PKG-INFO": FILES["PKG-INFO"]})))
    assert failed.value.fault is PackageFault.NO_PACKAGE
