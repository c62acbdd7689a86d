"""What a result depends on, besides seeds: written into every record."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("faithprobe", "torch", "transformers", "transformer-lens", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    return {"python": sys.version.split()[0], **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
