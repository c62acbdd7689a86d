"""The shape checker of the tests, tested: it must refuse what is wrong and let everything else be."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook

from tests.shapes import modules_with_shapes

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol
from jaxtyping import Float
from torch import Tensor
if TYPE_CHECKING:
    from transformers import PreTrainedModel

class Reader(Protocol):
    def read(self, x: int) -> int: ...

@dataclass(frozen=True)
class Record:
    x: Float[Tensor, "batch d"]
    weight: float = 0.0
    names: dict[str, Literal["a", "b"]] = field(default_factory=dict)

@dataclass(frozen=True, eq=False)
class Model:
    hf: PreTrainedModel
    @property
    def again(self) -> PreTrainedModel:
        return self.hf

def column_sum(x: Float[Tensor, "batch d"], over: Literal["rows", "columns"] = "rows") -> Float[Tensor, " d"]:
    return x.sum(0) if over == "rows" else x.sum(1)

def read(reader: Reader, model: PreTrainedModel, weight: float) -> Float[Tensor, " n"]:
    return torch.zeros(reader.read(2))

def two(x: dict[str, Float[Tensor, "n d"]], y: Float[Tensor, "n d"] | None) -> None: ...
import torch
"""


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("shaped")
    (folder / "shaped_example.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    try:
        with install_import_hook("shaped_example", "tests.shapes.checked"):
            yield import_module("shaped_example")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("shaped_example", None)


def test_right_shapes_pass(shaped):
    assert shaped.column_sum(torch.ones(2, 3)).shape == (3,)
    assert shaped.Record(torch.ones(2, 3), weight=1).weight == 1
    shaped.two({"a": torch.ones(2, 3)}, torch.ones(2, 3))
    shaped.two({}, None)


def test_wrong_shapes_raise(shaped):
    with pytest.raises(TypeCheckError, match="column_sum"):
        shaped.column_sum(torch.ones(3))
    with pytest.raises(TypeCheckError, match="return value"):
        shaped.column_sum(torch.ones(2, 3), over="columns")
    with pytest.raises(TypeCheckError):
        shaped.Record(torch.ones(3))
    with pytest.raises(TypeCheckError):
        shaped.two({"a": torch.ones(2, 3)}, torch.ones(5, 3))
    with pytest.raises(TypeCheckError):
        shaped.column_sum(torch.ones(2, 3, dtype=torch.int64))


def test_other_annotations_are_left_to_mypy(shaped):
    class Two:
        def read(self, x):
            return x

    assert shaped.read(Two(), object(), 1).shape == (2,)
    assert shaped.Model(7).again == 7


def test_the_hook_covers_modules_that_import_jaxtyping(tmp_path):
    package = tmp_path / "example"
    (package / "room").mkdir(parents=True)
    (package / "room" / "__init__.py").write_text("from jaxtyping import Float\n")
    (package / "room" / "shaped.py").write_text("from jaxtyping import Float\n")
    (package / "room" / "plain.py").write_text("# jaxtyping\n")
    assert modules_with_shapes(package) == ["example.room.shaped"]
