"""Filling a page's template; a page loads nothing from anywhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from headgate.units import rough_percent


def write(template: str, file: Path, plots: dict[str, bytes], **content: object) -> None:
    """Write a page.

    Args:
        template: its name in templates/.
        file: where to.
        plots: SVG by name; an empty one is not shown.
        content: what the template knows by name.
    """
    drawn = {name: _inline(picture) for name, picture in plots.items() if picture}
    page = _environment().get_template(template).render(plots=drawn, **content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": rough_percent, "time": lambda at: at.strftime("%F %T")}
    return environment


def _inline(picture: bytes) -> Markup:
    """The SVG element without what precedes it, which belongs in a file; the page has its own words for it."""
    text = picture.decode()
    return Markup(text[text.index("<svg") :].replace("<svg", '<svg aria-hidden="true"', 1))  # noqa: S704 - our own plot
