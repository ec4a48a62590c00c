"""Pages: single HTML files that need nothing else, all in one style.

Everything that an agent or an environment wrote is escaped, and a content security policy lets run no
script but the page's own, known by its hash, and load nothing from anywhere.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from turnwise.viewer.words import action_text, clip, interval, percent, printable, signed

HERE = Path(__file__).parent


def render_page(template: str, **values: Any) -> str:
    """A template of this folder, which extends ``page.html``, with these values."""
    templates = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters |= {
        "action": action_text,
        "clip": clip,
        "printable": printable,
        "signed": signed,
        "base64": _base64,
    }
    script = (HERE / "report.js").read_text(encoding="utf-8")
    return templates.get_template(template).render(
        **values,
        css=Markup(chart_style() + (HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=_base64(hashlib.sha256(script.encode()).digest()),
        percent=percent,
        interval=interval,
    )


def chart_style() -> str:
    """The style sheet that charts need wherever they stand."""
    return (HERE / "charts.css").read_text(encoding="utf-8")


def write_page(target: Path, page: str) -> Path:
    """Write a page, whole or not at all."""
    scratch = target.with_suffix(".tmp")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, target)
    return target


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
