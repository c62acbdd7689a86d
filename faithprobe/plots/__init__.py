"""Figures and the HTML reports of an audit and of a probe run. Plotly and pandas load only when one is
asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faithprobe.plots.curves import decodability, lead_curves
    from faithprobe.plots.exchanges import bypass, mediation
    from faithprobe.plots.figures import accuracy, use_outcomes, when_by_used
    from faithprobe.plots.notebook import notebook_figures
    from faithprobe.plots.patching import patching_map
    from faithprobe.plots.probes import decodable_not_used, probe_curves, write_probe_report
    from faithprobe.plots.report import ReportInput, render_report, write_report

_HOMES = {
    "when_by_used": "figures",
    "use_outcomes": "figures",
    "bypass": "exchanges",
    "mediation": "exchanges",
    "accuracy": "figures",
    "decodability": "curves",
    "lead_curves": "curves",
    "notebook_figures": "notebook",
    "patching_map": "patching",
    "decodable_not_used": "probes",
    "probe_curves": "probes",
    "write_probe_report": "probes",
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
    "decodable_not_used",
    "lead_curves",
    "mediation",
    "notebook_figures",
    "patching_map",
    "probe_curves",
    "render_report",
    "use_outcomes",
    "when_by_used",
    "write_probe_report",
    "write_report",
]
