"""Problems whose intermediate values are known: one file a family."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from faithprobe.errors import TaskError, UnknownNameError, way_out
from faithprobe.tasks.graph import Graph, Step, Value
from faithprobe.tasks.task import Problem, Task

_FAMILIES = {
    "arithmetic": "arithmetic:Arithmetic",
    "programs": "programs:Programs",
    "multiplication": "multiplication:Multiplication",
    "gsm8k": "gsm8k:GSM8K",
    "deduction": "deduction:Deduction",
    "organism": "organism:Organism",
}
_USER_FAMILIES: dict[str, type[Task]] = {}


def register_task(family: type[Task]) -> type[Task]:
    """Makes a user's family known by its `name`, to `load_task` and to the command line. Usable as a decorator."""
    _USER_FAMILIES[family.name] = family
    return family


def task_names() -> list[str]:
    return [*_FAMILIES, *_USER_FAMILIES]


def task_class(name: str) -> type[Task]:
    if name in _USER_FAMILIES:
        return _USER_FAMILIES[name]
    if name not in _FAMILIES:
        raise UnknownNameError("task", name, task_names(), "A family of your own is made known by register_task.")
    module, family = _FAMILIES[name].split(":")
    return getattr(import_module(f"faithprobe.tasks.{module}"), family)


def load_task(name: str, **options: object) -> Task:
    """A task by its name: `load_task("arithmetic", steps=3)`. Unknown names and options answer with what exists."""
    family = task_class(name)
    known = dict(inspect.signature(family).parameters)
    takes_any = any(option.kind is inspect.Parameter.VAR_KEYWORD for option in known.values())
    for option in options:
        if option not in known and not takes_any:
            meant = way_out(option, list(known)) if known else "it has none"
            raise TaskError(
                f"task {name!r} has no option {option!r}; {meant} All of them, with what they are by default: "
                f"{', '.join(map(_with_default, known.values())) or 'none'}"
            )
    try:
        return family(**options)
    except TypeError as error:
        odd = {option: value for option, value in options.items() if not _like_default(value, known.get(option))}
        given = ", ".join(f"{option}={value!r}" for option, value in (odd or options).items())
        named = ", ".join(_with_default(known[option]) for option in (odd or options) if option in known)
        raise TaskError(
            f"task {name!r} cannot use {given or 'no options'} ({error}); by default it has "
            f"{named or ', '.join(map(_with_default, known.values()))}"
        ) from None


def as_task(task: str | Task) -> Task:
    """A task, or the one of that name; raises TaskError for what is neither, such as a family that was not made."""
    if isinstance(task, str):
        return load_task(task)
    if isinstance(task, Task):
        return task
    if isinstance(task, type) and issubclass(task, Task):
        raise TaskError(f"{task.__name__} is a family of problems and no task yet: make one, {task.__name__}()")
    raise TaskError(f"a task or its name is needed, not {task!r}; there are: {', '.join(task_names())}")


def _with_default(option: inspect.Parameter) -> str:
    return option.name if option.default is option.empty else f"{option.name}={option.default!r}"


def _like_default(value: Any, option: inspect.Parameter | None) -> bool:
    """Whether a value is of the default's own type, or the default says nothing about it."""
    return option is None or option.default in (None, option.empty) or isinstance(value, type(option.default))


__all__ = ["Graph", "Problem", "Step", "Task", "Value"]
__all__ += ["as_task", "load_task", "register_task", "task_class", "task_names"]
