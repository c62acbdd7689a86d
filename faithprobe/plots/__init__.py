"""Figures and the HTML report of an audit. Plotly and pandas load only when a figure or a report is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faithprobe.plots.curves import decodability, lead_curves
    from faithprobe.plots.figures import accuracy, bypass, mediation, use_outcomes, when_by_used
    from faithprobe.plots.report import ReportInput, render_report, write_report

_HOMES = {
    "when_by_used": "figures",
    "use_outcomes": "figures",
    "bypass": "figures",
    "mediation": "figures",
    "accuracy": "figures",
    "decodability": "curves",
    "lead_curves": "curves",
    "ReportInput": "report",
    "render_report": "report",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"faithprobe.plots.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")


def __dir__() -> list[str]:
    return sorted(_HOMES)


__all__ = [
    "ReportInput",
    "accuracy",
    "bypass",
    "decodability",
    "lead_curves",
    "mediation",
    "render_report",
    "use_outcomes",
    "when_by_used",
    "write_report",
]
