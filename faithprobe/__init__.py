"""faithprobe: was each value of a chain of thought computed before it was written, and did the answer use it?"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faithprobe.audit import Audit, audit
    from faithprobe.errors import FaithprobeError
    from faithprobe.models import load_model, register_model
    from faithprobe.tasks import Problem, Task, load_task, register_task
    from faithprobe.validate import Validation, validate

__version__ = "0.1.0"
_HOMES = dict.fromkeys(("Audit", "audit"), "audit") | dict.fromkeys(("Validation", "validate"), "validate")
_HOMES |= {"FaithprobeError": "errors"} | dict.fromkeys(("load_model", "register_model"), "models")
_HOMES |= dict.fromkeys(("Problem", "Task", "load_task", "register_task"), "tasks")
__all__ = ["Audit", "FaithprobeError", "Problem", "Task", "Validation", "audit", "validate"]
__all__ += ["load_model", "load_task", "register_model", "register_task"]


class _Package(ModuleType):
    """Loads public names when they are first used: torch and transformers wait until then."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'faithprobe' has no attribute {name!r}")
        return getattr(import_module(f"faithprobe.{_HOMES[name]}"), name)

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the module `faithprobe.audit` sets it on the package; there, `audit` stays the function.
        super().__setattr__(name, getattr(value, name) if name in _HOMES and isinstance(value, ModuleType) else value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
