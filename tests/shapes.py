"""Checks the shapes that faithprobe's annotations promise, while tests run.

`conftest.py` installs jaxtyping's import hook with `checked` as the type checker. Only what mentions a jaxtyping array
is checked: beartype would also refuse an int where a float is annotated, any Protocol that is not
`runtime_checkable`, and names that are imported under TYPE_CHECKING alone; mypy looks after those.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, checked by beartype where an annotation mentions a jaxtyping array."""
    kept = {name: hint for name, hint in getattr(function, "__annotations__", {}).items() if mentions_shape(hint)}
    if not kept:
        return function
    function.__annotations__ = kept
    return beartype(function)


def mentions_shape(hint: object) -> bool:
    """Whether `Float[Tensor, "b d"]` stands in `hint`, alone or inside a container or a union."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(mentions_shape(part) for part in get_args(hint))


def modules_with_shapes(package: Path) -> list[str]:
    """Dotted names of the modules of `package` that import jaxtyping: elsewhere the hook costs time and finds nothing.

    No `__init__` is among them: the hook would take its name for everything below it.
    """
    files = [path for path in sorted(package.rglob("*.py")) if path.name != "__init__.py" and imports_jaxtyping(path)]
    return [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files]


def imports_jaxtyping(path: Path) -> bool:
    source = path.read_text(encoding="utf-8")
    return "jaxtyping" in source and any(
        isinstance(node, ast.ImportFrom) and node.module == "jaxtyping" for node in ast.walk(ast.parse(source))
    )
