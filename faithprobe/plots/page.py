"""What every page of ours shares: one file that opens without a network and asks for nothing.

Plotly.js travels inside, compressed, and the content security policy forbids every request and every script but the two
whose hashes it names.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TypeAlias

import plotly.graph_objects as go

from faithprobe.errors import StoreError
from faithprobe.plots import sections
from faithprobe.plots.chain_viewer import json_island, verdict_css
from faithprobe.plots.palette import IN_THE_DARK
from faithprobe.plots.prepare import plain
from faithprobe.plots.theme import DARK, LIGHT

Drawings: TypeAlias = Mapping[str, tuple[go.Figure, go.Figure, str]]
"""Per figure: for a desktop, for a phone, and its numbers as a table."""


def render_page(
    template: str, *, kind: str, title: object, style: str, scripts: Sequence[str], drawings: Drawings, **parts: str
) -> str:
    """The page as one HTML text.

    Args:
        template: the file of this room that becomes the body; `frame.html` goes around it.
        kind: what the browser's tab says after the title, such as "faithprobe report".
        scripts: files of this room; `frame.js`, which every page has, comes before them.
        parts: HTML for the places of the template.
    """
    library, script, title = _plotly(), "".join(map(resource, ("frame.js", *scripts))), escape(str(plain(title)))
    body = Template(resource(template)).substitute(
        title=title,
        **{f"figure_{name}": _figure_html(name, *drawing) for name, drawing in drawings.items()},
        **parts,
    )
    return Template(resource("frame.html")).substitute(
        policy=_policy(script, library),
        tab=f"{title}: {escape(kind)}",
        style=verdict_css() + style,
        skip=_skip_link(body),
        body=body,
        figures_json=json_island(_figures_data(drawings)),
        plotly=base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode(),
        script=script,
    )


def write_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Writes the page and returns its path. The file appears whole or not at all."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        raise StoreError(
            f"the report could not be written to {target}: {error.strerror}; choose another path"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return target


def resource(name: str) -> str:
    """The text of a file of this room."""
    return files("faithprobe.plots").joinpath(name).read_text(encoding="utf-8")


def for_phone(fig: go.Figure) -> go.Figure:
    """The same figure with its legend in one column above the panels, and room for it."""
    narrow = go.Figure(fig)
    keys = sum(trace.showlegend is not False for trace in fig.data) if fig.layout.showlegend is not False else 0
    if keys > 1:
        top = 30 + 21 * keys
        narrow.update_layout(
            height=fig.layout.height + top - (fig.layout.margin.t or 44),
            margin={"t": top},
            legend={"orientation": "v", "tracegroupgap": 0},
        )
    return narrow.update_layout(margin={"l": 44, "r": 20})


def _figures_data(drawings: Drawings) -> dict[str, Any]:
    """What the figures' script reads; the look is sent once, in both themes."""

    def bare(fig: go.Figure) -> dict[str, Any]:
        data = json.loads(fig.to_json())
        data["layout"].pop("template", None)
        return {"data": data["data"], "layout": data["layout"]}

    drawn = {name: {"wide": bare(w), "narrow": bare(n)} for name, (w, n, _) in drawings.items() if not _reason(w)}
    return {"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json(), "recolour": IN_THE_DARK, "figures": drawn}


def _skip_link(body: str) -> str:
    """For a reader with a keyboard: past the head of the page and its contents, to the first section."""
    first = re.search(r'<section id="([\w-]+)"[^>]*>\s*<h2>([^<]*)</h2>', body)
    return f'<a class="skip" href="#{first[1]}">Skip to: {first[2]}</a>\n' if first else ""


def _reason(fig: go.Figure) -> str:
    return str((fig.layout.meta or {}).get("missing", ""))


def _figure_html(name: str, wide: go.Figure, narrow: go.Figure, numbers: str) -> str:
    if _reason(wide):
        return sections.missing(_reason(wide))
    details = f"<details><summary>The numbers</summary>{numbers}</details>" if numbers else ""
    return (
        f'<div class="plot" id="plot-{name}" style="--wide:{wide.layout.height}px;--narrow:{narrow.layout.height}px">'
        '<p class="undrawn">This figure is drawn by a script. Its numbers are in the table below.</p></div>' + details
    )


def _policy(*scripts: str) -> str:
    """Nothing may be fetched, and only these scripts may run: text that broke out of its place would stay dead."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
