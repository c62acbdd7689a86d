"""The colours of figures and pages: those of `faithprobe.palette`, in the ground, since records show themselves in them
as well. A colour, a letter or a meaning is changed there."""

from __future__ import annotations

from faithprobe.palette import (
    BLUE,
    GREEN,
    GREY,
    IN_THE_DARK,
    ORANGE,
    OUTCOMES,
    PURPLE,
    SITES,
    SKY,
    UNMEASURED,
    VERDICTS,
    VERMILLION,
    WHEN,
    YELLOW,
    VerdictStyle,
    ink_on,
    translucent,
    verdict_style,
)

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "IN_THE_DARK",
    "ORANGE",
    "OUTCOMES",
    "PURPLE",
    "SITES",
    "SKY",
    "UNMEASURED",
    "VERDICTS",
    "VERMILLION",
    "WHEN",
    "YELLOW",
    "VerdictStyle",
    "ink_on",
    "translucent",
    "verdict_style",
]
