"""What MkDocs does besides: the reference of every public module, links that leave `docs/`, no request that leaves.

The pages are read in the repository as well as on the site, so they link to files beside `docs/` by their relative
path (`../../artifacts/probes/table.md`). On the site a module of the package leads to its page of the reference; any
other file is copied under `repository/`, or shown as a page where it is Markdown; a folder is named and not linked.
"""

from __future__ import annotations

import ast
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
LOADED = re.compile(
    r"<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", re.I
)
OUTSIDE = "repository"
log = logging.getLogger("mkdocs.hooks")  # its warnings end a strict build

JOBS = ("audit", "probe", "validate", "compare", "masked", "cli")
ROOMS = {
    "results": "The records of an audit, of probes and of a validation.",
    "metrics": "One file a metric, ours and the published ones.",
    "scores": "Definitions, statistics, verdicts.",
    "probes": "Is the value there? Since when? Against which control?",
    "interventions": "Does it matter? One engine for all that changes a run.",
    "training": "The loss, its adapters, its guards.",
    "organisms": "Networks whose faithfulness is known by construction.",
    "tasks": "Problems whose intermediate values are known.",
    "chains": "Stated values found in text, aligned to tokens.",
    "models": "A language model and its named sites.",
    "plots": "Figures and reports.",
}
"""The shelf's order: from the jobs down to what they stand on."""


def public_modules(package: Path) -> dict[str, list[str]]:
    """Dotted names by room. What stands in none is on a shelf of its own, so nothing is left out in silence."""
    rooms: dict[str, list[str]] = {name: [] for name in ("The jobs", *ROOMS, "The ground")}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(part.startswith("_") for part in parts) or len(parts) == 1:
            continue
        home = "The jobs" if parts[1] in JOBS else parts[1] if parts[1] in ROOMS else "The ground"
        rooms[home].append(".".join(parts))
    return {room: modules for room, modules in rooms.items() if modules}


def public_names(init: Path) -> dict[str, list[str]]:
    """What `import faithprobe` gives, by the module that it comes from."""
    found = ast.walk(ast.parse(init.read_text(encoding="utf-8")))
    imports = [
        node for node in found if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("faithprobe.")
    ]
    return {str(node.module): [alias.name for alias in node.names] for node in imports}


def on_config(config: Any) -> Any:
    """Adds the shelf *Reference* in front of the last two."""
    shelf: list[Any] = ["reference/index.md"]
    for room, modules in public_modules(ROOT / "faithprobe").items():
        title = f"{room}/" if room in ROOMS else room
        shelf.append({title: [{name.removeprefix("faithprobe."): _page(name)} for name in modules]})
    config.nav.insert(len(config.nav) - 2, {"Reference": shelf})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for each module, and the files outside of `docs/` that pages link to."""
    from mkdocs.structure.files import File

    rows = ["# Reference", "", "Generated from the docstrings. Rooms are the folders of `faithprobe/`.", ""]
    rows += ["## import faithprobe", "", "Loaded when they are first used.", ""]
    for module, names in public_names(ROOT / "faithprobe" / "__init__.py").items():
        shown = ", ".join(f"`{name}`" for name in names)
        rows.append(f"* {shown}: [{module}]({_page(module).removeprefix('reference/')})")
    rows.append("")
    for room, modules in public_modules(ROOT / "faithprobe").items():
        rows += [f"## {room}", "", ROOMS.get(room, ""), ""]
        for name in modules:
            rows.append(f"* [`{name}`]({_page(name).removeprefix('reference/')})")
            files.append(File.generated(config, _page(name), content=f"::: {name}\n"))
        rows.append("")
    files.append(File.generated(config, "reference/index.md", content="\n".join(rows)))
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    for page in waiting:  # grows: a Markdown file outside brings its own links
        for _, target, *_ in LINK.findall(_prose(page.read_text(encoding="utf-8"))):
            path = _outside(page, target)
            if path is None or not path.is_file() or files.get_file_from_path(_inside(path)):
                continue
            files.append(File.generated(config, _inside(path), abs_src_path=str(path)))
            if path.suffix == ".md":
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of `docs/` lead to the copies; those of copied pages back into `docs/`."""
    source = page.file.abs_src_path
    if not source:
        return markdown
    here, docs = Path(source), ROOT / "docs"

    def rewritten(match: re.Match[str]) -> str:
        opening, target, anchor, closing = match.groups()
        if "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        path = (here.parent / target).resolve()
        if path.is_relative_to(docs):
            goal = path.relative_to(docs).as_posix()
        elif path.is_file() and path.is_relative_to(ROOT):
            goal = _inside(path)
        elif path == ROOT / "faithprobe":
            goal = "reference/index.md"
        elif path.exists():  # a folder
            return f"`{path.relative_to(ROOT)}`"
        else:
            return match[0]
        return f"{opening}{os.path.relpath(goal, Path(page.file.src_uri).parent)}{anchor or ''}{closing}"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """A page that would fetch something from elsewhere when it is opened is an error; a link that is clicked is not."""
    for address in LOADED.findall(output):
        log.warning("%s loads %s", page.file.src_uri, address)
    return output


def _page(module: str) -> str:
    return "reference/" + "/".join(module.split(".")[1:]) + (".md" if module.count(".") > 1 else "/index.md")


def _prose(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def _outside(page: Path, target: str) -> Path | None:
    """The file of the repository that a link names, where it is not inside `docs/`."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = (page.parent / target).resolve()
    return path if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs") else None


def _inside(path: Path) -> str:
    if path.suffix == ".py" and path.is_relative_to(ROOT / "faithprobe"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        return _page(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
