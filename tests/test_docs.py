"""Every Python block of these pages runs as it stands, each on its own, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = [
    pytest.param(page, block, id=f"{page}-{number}")
    for page in (
        *("interventions.md", "organisms.md", "probes.md", "published_metrics.md", "validate.md"),
        *("training_guards.md", "training_lightning.md", "training_loop.md", "training_trainer.md"),
    )
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE), 1
    )
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_the_blocks_of_a_page_run_as_they_stand(page, block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {"__name__": "__main__"})


def test_pages_link_to_files_that_exist():
    for page in [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_families_and_keys_that_are_named_exist():
    """The tables name every family that is shipped, and every key of `validation.json`."""
    from faithprobe.organisms.families import FAMILIES
    from faithprobe.results.validation import RESULTS

    organisms, validation = ((DOCS / page).read_text(encoding="utf-8") for page in ("organisms.md", "validate.md"))
    spanned = {f"dose-{ninths}" for ninths in range(1, 9)}  # written as a range
    assert not [name for name in FAMILIES if f"`{name}`" not in organisms and name not in spanned]
    assert not [key for key in RESULTS if not re.search(rf"^\| `{key}\b", validation, re.MULTILINE)]
