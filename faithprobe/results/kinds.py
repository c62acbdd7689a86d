"""Which kind of result a folder holds, for whoever opens it as another one."""

from __future__ import annotations

from pathlib import Path

_KINDS = {
    "audit.json": ("an audit", "Audit.load"),
    "probes.safetensors": ("probes", "Probes.load"),
    "validation.json": ("a validation", "Validation.load"),
    "comparison.json": ("a comparison", "Comparison.load"),
}


def held_instead(folder: Path, wanted: str) -> str:
    """What the folder holds other than the file `wanted`, and how it is read: `; it holds an audit: read it with
    Audit.load`. Where there is no such folder, that; else empty, and so where `wanted` is a part of some kind."""
    if not folder.exists():
        return "; there is no such folder"
    if wanted not in _KINDS:
        return ""  # a part of a result, whose own kind is known
    for file, (kind, reader) in _KINDS.items():
        if file != wanted and (folder / file).is_file():
            return f"; it holds {kind}: read it with {reader}"
    return ""
