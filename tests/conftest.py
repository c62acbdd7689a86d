"""What every test stands on: sane threads, no network, shapes checked, data found or the test skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.shapes import modules_with_shapes

ROOT = Path(__file__).resolve().parents[1]

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}.items():
    os.environ.setdefault(name, value)

# Before anything imports faithprobe: a function whose tensors are not of the shape that it promises fails its test.
install_import_hook(modules_with_shapes(ROOT / "faithprobe"), "tests.shapes.checked")


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """More threads than cores make small models many times slower: OMP_NUM_THREADS, or one."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data beside the repository; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the public data in ../shared/data, and there is none")
    return folder


@pytest.fixture
def untouched_randomness() -> object:
    """Fails the test if it moved the random numbers of torch, numpy or Python: measurements use local generators."""
    import random

    import numpy as np
    import torch

    def state() -> tuple[object, ...]:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global state is what is watched
        return random.getstate(), (kind, keys.tobytes(), *rest), torch.random.get_rng_state().numpy().tobytes()

    before = state()
    yield
    for source, old, new in zip(("random", "numpy.random", "torch"), before, state(), strict=True):
        assert old == new, f"the global state of {source} was changed"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that a test of numbers runs on."""
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cuda` are skipped where there is no GPU."""
    wanted = [item for item in items if item.get_closest_marker("cuda")]
    if not wanted:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and torch sees none"))
