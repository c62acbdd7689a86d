"""Figures of the experiments as PNG files, drawn by Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

import plotly.graph_objects as go


def draw(figure: go.Figure, path: Path) -> None:
    """Nothing, and a word about it, where there is no Chromium."""
    if (chromium := shutil.which("chromium")) is None:
        print(f"no chromium: {path} is not drawn")
        return
    from playwright.sync_api import sync_playwright

    path.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1080, "height": int(figure.layout.height)})
        page.set_content(figure.to_html(include_plotlyjs=True))
        page.wait_for_selector(".main-svg")
        page.screenshot(path=path)
        browser.close()
