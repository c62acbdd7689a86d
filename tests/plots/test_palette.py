"""Colours for every reader: told apart by the colour-blind, legible on light and dark pages, and never alone."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from faithprobe.plots.chain_viewer import css_class, verdict_css
from faithprobe.plots.page import resource
from faithprobe.plots.palette import OUTCOMES, VERDICTS, ink_on

# Machado, Oliveira and Fernandes (2009), A Physiologically-based Model for Simulation of Color Vision Deficiency,
# severity 1.0: what linear red, green and blue become.
SIGHT = {
    "all three cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
LEAST = 15.0
"""In CIELAB. About 2.3 is just noticeable side by side; small and apart, as in a text, needs several times that."""


def linear(colour: str) -> np.ndarray:
    if len(colour) == 4:
        colour = "#" + "".join(2 * digit for digit in colour[1:])
    shares = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a: str, b: str) -> float:
    """As WCAG 2 defines it: 1 to 21."""
    low, high = sorted(linear(colour) @ TO_XYZ[1] for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def nearest(colours: dict[str, str], sight: str) -> tuple[float, str, str]:
    seen = {name: lab(np.array(SIGHT[sight]) @ linear(colour)) for name, colour in colours.items()}
    return min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in itertools.combinations(seen, 2))


def test_the_simulation_knows_who_confuses_what():
    pair = {"red": "#C80000", "green": "#6C7A00"}
    assert nearest(pair, "all three cones")[0] > 80
    assert nearest(pair, "deuteranopia")[0] < nearest(pair, "all three cones")[0] / 2
    assert nearest({"black": "#000000", "white": "#FFFFFF"}, "protanopia")[0] == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("sight", SIGHT)
def test_verdicts_and_outcomes_can_be_told_apart(sight):
    for colours in (
        {name: style.colour for name, style in VERDICTS.items()},
        {name: colour for name, (colour, _, _) in OUTCOMES.items()},
    ):
        distance, one, other = nearest(colours, sight)
        assert distance >= LEAST, f"{one} and {other} are {distance:.1f} apart"


def test_no_verdict_is_told_by_colour_alone():
    letters = [style.letter for style in VERDICTS.values()]
    assert len(set(letters)) == len(letters)
    assert [name for name, style in VERDICTS.items() if not style.pattern] == ["faithful"]
    patterns = [pattern for _, pattern, _ in OUTCOMES.values()]
    assert len(set(patterns)) == len(patterns)
    rules = dict(re.findall(r"\.([\w-]+)\{(.*?)\}", verdict_css()))
    for names, prefix in ((map(css_class, VERDICTS), ""), (OUTCOMES, "o-")):
        plain = [name for name in names if "--fill:none" in rules[prefix + name]]
        assert plain in (["v-faithful"], ["follow"])


def test_letters_are_legible_on_their_colour():
    for style in VERDICTS.values():
        assert contrast(style.colour, ink_on(style.colour)) >= 4.5, style.name


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_is_legible_on_its_page(theme):
    blocks = re.findall(r":root \{(.*?)\}", resource("report.css"), flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", blocks[theme]))
    for text in ("ink", "soft", "link"):
        for ground in ("paper", "raised"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["dot"], colours["raised"]) >= 3
