"""Pages: one HTML file each that needs no network, made from `templates/`."""

from __future__ import annotations

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **facts: object) -> str:
    """The page. Every fact is escaped, unless it is `Markup`."""
    return _environment().get_template(template).render(facts)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
