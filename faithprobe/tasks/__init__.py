"""Problems whose intermediate values are known: one file a family."""

from __future__ import annotations

from importlib import import_module

from faithprobe.errors import TaskError, UnknownNameError
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
    try:
        return family(**options)
    except TypeError as error:
        raise TaskError(f"task {name!r}: {error}; see help({family.__name__})") from None


__all__ = ["Graph", "Problem", "Step", "Task", "Value", "load_task", "register_task", "task_class", "task_names"]
