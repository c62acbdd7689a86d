"""Executes the notebooks of this folder, prints what each took, and writes them whole or not at all.

    python notebooks/execute.py                     every notebook, into runs/notebooks
    python notebooks/execute.py 2_what --in-place   one of them anew, with its outputs, before it is committed
    python notebooks/execute.py --html              and as pages that ask for nothing outside of themselves

What nbconvert makes by itself fetches RequireJS and MathJax from a network. Our figures are pictures there and need
neither: `jupyter nbconvert --to html --HTMLExporter.require_js_url= --HTMLExporter.mathjax_url= NOTEBOOK` is the same
by hand.

What is written holds nothing of the machine that it ran on: no time stamps, no widgets, no versions.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks(part: str = "") -> list[Path]:
    """In their order; those whose name holds `part`."""
    return [path for path in sorted(HERE.glob("*.ipynb")) if part in path.name]


def executed(path: Path, *, timeout: int = 3600) -> Any:
    """The notebook with fresh outputs; raises where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": HERE}}).execute()
    return cleaned(notebook)


def cleaned(notebook: Any) -> Any:
    """Without what changes from run to run and machine to machine; a bar of a library's own, a widget, is dead once
    saved, and goes as well."""
    notebook.metadata = nbformat.from_dict({**KEPT, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]
    return notebook


def as_html(notebook: Any, name: str) -> str:
    """The notebook as a page that opens without a network."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(require_js_url="", mathjax_url="")
    return str(exporter.from_notebook_node(notebook, {"metadata": {"name": name}})[0])


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("part", nargs="?", default="", help="of a notebook's name; default: all of them")
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "notebooks", help="default: runs/notebooks")
    parser.add_argument("--in-place", action="store_true", help="write over the notebooks themselves")
    parser.add_argument("--html", action="store_true", help="also as HTML, into the folder of --out")
    chosen = parser.parse_args()
    folder = HERE if chosen.in_place else chosen.out
    folder.mkdir(parents=True, exist_ok=True)
    found = notebooks(chosen.part)
    if not found:
        parser.error(f"no notebook's name holds {chosen.part!r}; there are {[path.name for path in notebooks()]}")
    for path in found:
        began = time.monotonic()
        notebook = executed(path)
        write(folder / path.name, nbformat.writes(notebook) + "\n")
        if chosen.html:
            chosen.out.mkdir(parents=True, exist_ok=True)
            write(chosen.out / f"{path.stem}.html", as_html(notebook, path.stem))
        size = (folder / path.name).stat().st_size / 1000
        print(f"{path.name}: {time.monotonic() - began:.0f} s, {size:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
