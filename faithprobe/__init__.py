"""faithprobe: was each value of a chain of thought computed before it was written, and did the answer use it?"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faithprobe.audit import Audit, audit
    from faithprobe.compare import Comparison, compare
    from faithprobe.errors import FaithprobeError
    from faithprobe.models import load_model, register_model
    from faithprobe.probe import Probes, probe
    from faithprobe.tasks import Problem, Task, load_task, register_task
    from faithprobe.validate import Validation, validate
__version__ = "0.1.0"
_HOMES = {"Audit": "audit", "Comparison": "compare", "Probes": "probe", "Validation": "validate"}
_HOMES |= {job: job for job in _HOMES.values()} | dict.fromkeys(("load_model", "register_model"), "models")
_HOMES |= dict.fromkeys(("Problem", "Task", "load_task", "register_task"), "tasks") | {"FaithprobeError": "errors"}
__all__ = ["Audit", "Comparison", "FaithprobeError", "Probes", "Problem", "Task", "Validation", "audit", "compare"]
__all__ += ["load_model", "load_task", "probe", "register_model", "register_task", "validate"]


class _Package(ModuleType):
    """Public names load at first use: torch waits until then. Modules named alike leave `audit` the function."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'faithprobe' has no attribute {name!r}")
        return getattr(import_module(f"faithprobe.{_HOMES[name]}"), name)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, getattr(value, name) if name in _HOMES and isinstance(value, ModuleType) else value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
