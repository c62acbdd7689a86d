"""Activations of many chains on disk: ragged, written shard by shard, read by memory map.

A store is a folder. Each shard is a safetensors file with one tensor [row, d_model] for every site; its header says
which rows belong to which chain (offsets), and each row's label and token position. `manifest.json` says which model,
tokenizer and sites the activations are of, and lists the shards. Every file is written under a temporary name and then
renamed, the manifest after its shard: a run that is killed loses at most the rows that it had not flushed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from faithprobe.errors import StoreError, UnknownNameError
from faithprobe.files import replacing, write_text
from faithprobe.models.language_model import LanguageModel

FORMAT = 1
MANIFEST = "manifest.json"
_ANEW = "delete this file and run the same command again: only the chains in it are computed anew"


@dataclass(frozen=True)
class Entry:
    """Where one chain's rows stand in its shard, and what they are."""

    id: str
    begin: int
    labels: tuple[str, ...]
    """One a row, each different: `step 2/ahead`."""
    positions: tuple[int, ...]
    """One a row: the token position in the chain."""

    @property
    def end(self) -> int:
        return self.begin + len(self.positions)


@dataclass(frozen=True)
class Shard:
    """One file of a store, as the manifest lists it."""

    file: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and of which model."""

    fingerprint: str
    tokenizer: str
    sites: tuple[str, ...]
    dtype: str
    d_model: int
    model: str = ""
    """Its name, for people: only the fingerprint is compared."""
    shards: tuple[Shard, ...] = ()
    refused: Mapping[str, str] | None = None
    """Chain id -> why its activations were not stored."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises StoreError where the folder holds no manifest, or one that cannot be understood."""
        path = folder / MANIFEST
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != FORMAT:
                raise StoreError(
                    f"{path} has another format than this faithprobe writes ({FORMAT}); read it with the version that "
                    "wrote it, or give another folder"
                )
            shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
            return cls(**{**fields, "sites": tuple(fields["sites"]), "shards": shards})
        except FileNotFoundError:
            raise StoreError(f"{folder} holds no trace store (no {MANIFEST}); record activations first") from None
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}); delete the folder and record the activations again"
            ) from error

    def write(self, folder: Path) -> None:
        fields = {**vars(self), "shards": [vars(shard) for shard in self.shards], "refused": dict(self.refused or {})}
        write_text(folder / MANIFEST, json.dumps({"format": FORMAT, **fields}, indent=1) + "\n")

    def require(self, folder: Path, wanted: Mapping[str, Any]) -> None:
        """Raises StoreError where a field is not what is wanted."""
        for name, value in wanted.items():
            held = getattr(self, name)
            if held != value:
                words = {"fingerprint": "model (by fingerprint)", "tokenizer": "tokenizer (by hash)"}.get(name, name)
                held, value = (list(x) if isinstance(x, tuple) else x for x in (held, value))
                raise StoreError(
                    f"the trace store {folder} was recorded with another {words}: {held}, not {value}; give another "
                    "folder, or delete this one to record anew"
                )


class TraceWriter:
    """Adds activations to a store, or goes on with one that an interrupted run has left. One writer at a time.

    Use it as a context manager: what was added is on disk when the block ends, also when it ends by an error.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        model: LanguageModel,
        sites: Sequence[str],
        shard_rows: int = 2048,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Raises StoreError where the folder holds a store of another model, tokenizer, dtype or other sites."""
        self.folder, self.shard_rows, self.dtype = Path(folder), shard_rows, dtype
        manifest = Manifest(
            fingerprint=model.fingerprint,
            tokenizer=model.tokenizer_hash,
            sites=tuple(sites),
            dtype=str(dtype).removeprefix("torch."),
            d_model=model.d_model,
            model=model.name,
        )
        self._refused: dict[str, str] = {}
        self._done: set[str] = set()
        if (self.folder / MANIFEST).exists():
            manifest = self._resume(manifest)
        else:
            manifest.write(self.folder)
        self._manifest = manifest
        self._entries: list[Entry] = []
        self._rows: list[Tensor] = []
        self._changed = False

    def _resume(self, wanted: Manifest) -> Manifest:
        held = Manifest.read(self.folder)
        names = ("fingerprint", "tokenizer", "sites", "dtype", "d_model")
        held.require(self.folder, {name: getattr(wanted, name) for name in names})
        # a shard that a person has deleted because it was damaged: its chains are to be recorded again
        shards = tuple(shard for shard in held.shards if (self.folder / shard.file).exists())
        for shard in shards:
            self._done.update(entry.id for entry in _read_entries(self.folder, shard, held))
        self._refused = dict(held.refused or {})
        self._done.update(self._refused)
        for left_over in self.folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        return Manifest(**{**vars(held), "shards": shards})

    @property
    def done(self) -> Set[str]:
        """Ids of the chains that need not be run again: stored, waiting for their shard, or refused."""
        return self._done

    def add(
        self,
        chain_id: str,
        labels: Sequence[str],
        positions: Sequence[int],
        activations: Float[Tensor, "position site d_model"],
    ) -> None:
        """Adds one chain, whole. NaN or inf (also from a cast to a narrow dtype) is refused, with its place.

        Raises StoreError where labels, positions and activations do not go together, where the chain is in the store
        already, or where the disk is full; what was flushed before stays readable.
        """
        expected = [len(positions), len(self._manifest.sites), self._manifest.d_model]
        if list(activations.shape) != expected or len(labels) != len(positions) or len(set(labels)) != len(labels):
            raise StoreError(
                f"chain {chain_id!r} came with {len(labels)} labels ({len(set(labels))} different), {len(positions)} "
                f"positions and activations {list(activations.shape)}; expected one label a position, each different, "
                f"and activations [position, site, d_model] = {expected}"
            )
        if chain_id in self._done:
            raise StoreError(f"chain {chain_id!r} is in {self.folder} already; leave out the ids in `done`")
        self._done.add(chain_id)
        self._changed = True
        rows = activations.detach().to("cpu", self.dtype, copy=True)
        finite = rows.isfinite().all(dim=-1)
        if not finite.all():
            row, site = (~finite).nonzero()[0].tolist()
            self._refused[chain_id] = (
                f"NaN or infinite activation at {self._manifest.sites[site]}, position {positions[row]} ({labels[row]})"
            )
            return
        begin = self._entries[-1].end if self._entries else 0
        self._entries.append(Entry(chain_id, begin, tuple(labels), tuple(int(position) for position in positions)))
        self._rows.append(rows)
        if self._entries[-1].end >= self.shard_rows:
            self.flush()

    def flush(self) -> None:
        """Writes what has been added since the last flush as a shard of its own, then the manifest."""
        if not self._changed:
            return
        shards = self._manifest.shards
        if self._entries:
            shards = (*shards, self._write_shard())
        manifest = Manifest(**{**vars(self._manifest), "shards": shards, "refused": dict(self._refused)})
        manifest.write(self.folder)
        self._manifest, self._changed = manifest, False
        self._entries, self._rows = [], []

    def _write_shard(self) -> Shard:
        taken = {shard.file for shard in self._manifest.shards}
        file = next(name for i in range(len(taken) + 1) if (name := f"shard-{i:05}.safetensors") not in taken)
        rows = torch.cat(self._rows)
        tensors = {site: rows[:, i].contiguous() for i, site in enumerate(self._manifest.sites)}
        index = {
            "ids": [entry.id for entry in self._entries],
            "offsets": [0, *(entry.end for entry in self._entries)],
            "labels": [label for entry in self._entries for label in entry.labels],
            "positions": [position for entry in self._entries for position in entry.positions],
        }
        data = save(tensors, metadata={"index": json.dumps(index)})
        with replacing(self.folder / file) as temporary:
            temporary.write_bytes(data)
        return Shard(file, len(rows), len(data))

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except StoreError:
            if error is None:
                raise  # else the first error is the one to read; earlier shards are intact


class Trace:
    """A store that was opened to be read. Opening reads and checks the shards' headers; rows come by memory map."""

    def __init__(self, folder: Path | str, *, model: LanguageModel | None = None) -> None:
        """Raises StoreError where a shard is missing, cut or damaged, and, with `model`, where the activations are
        another model's or were recorded with another tokenizer."""
        self.folder = Path(folder)
        self._manifest = Manifest.read(self.folder)
        if model is not None:
            self._manifest.require(self.folder, {"fingerprint": model.fingerprint, "tokenizer": model.tokenizer_hash})
        self._index: dict[str, tuple[Shard, Entry]] = {}
        for shard in self._manifest.shards:
            for entry in _read_entries(self.folder, shard, self._manifest):
                self._index[entry.id] = shard, entry

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """In the order in which they were added."""
        return tuple(self._index)

    @property
    def refused(self) -> dict[str, str]:
        """Chain id -> why its activations were not stored."""
        return dict(self._manifest.refused or {})

    def digest(self) -> str:
        """Hex digits over everything that can be read from the store: activations, their places, whose they are. It
        does not depend on which model they came from."""
        found = hashlib.sha256(json.dumps([self.sites, self.refused], sort_keys=True).encode())
        for shard in self._manifest.shards:
            with (self.folder / shard.file).open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
        return found.hexdigest()

    @property
    def sites(self) -> tuple[str, ...]:
        return self._manifest.sites

    @property
    def d_model(self) -> int:
        return self._manifest.d_model

    def labels(self, chain_id: str) -> tuple[str, ...]:
        return self._find(chain_id)[1].labels

    def positions(self, chain_id: str) -> tuple[int, ...]:
        return self._find(chain_id)[1].positions

    def get(self, chain_id: str) -> Float[Tensor, "position site d_model"]:
        """All activations of one chain, in the dtype of the store."""
        shard, entry = self._find(chain_id)
        with _opened(self.folder, shard) as file:
            return torch.stack([file.get_slice(site)[entry.begin : entry.end] for site in self.sites], dim=1).clone()

    def gather(
        self, site: str, label: str, ids: Sequence[str] | None = None
    ) -> tuple[list[str], Float[Tensor, "row d_model"]]:
        """The rows with this label, and the ids of their chains: of all that have one, or of `ids`, in that order.

        Reads one shard after the other: only the result is held in memory. Raises UnknownNameError for a site or a
        chain that is not stored, or a chain without the label.
        """
        if site not in self.sites:
            raise UnknownNameError("recorded site", site, self.sites)
        if ids is None:
            ids = [chain_id for chain_id, (_, entry) in self._index.items() if label in entry.labels]
        places: dict[Shard, list[tuple[int, int]]] = {}
        for i, chain_id in enumerate(ids):
            shard, entry = self._find(chain_id)
            if label not in entry.labels:
                raise UnknownNameError(f"label of {chain_id!r}", label, entry.labels)
            places.setdefault(shard, []).append((i, entry.begin + entry.labels.index(label)))
        rows = torch.empty(len(ids), self._manifest.d_model, dtype=getattr(torch, self._manifest.dtype))
        for shard, found in places.items():
            with _opened(self.folder, shard) as file:
                rows[[i for i, _ in found]] = file.get_slice(site)[:][[row for _, row in found]]
        return list(ids), rows

    def _find(self, chain_id: str) -> tuple[Shard, Entry]:
        if chain_id in self.refused:
            raise StoreError(f"chain {chain_id!r} was refused by {self.folder}: {self.refused[chain_id]}")
        if chain_id not in self._index:
            raise UnknownNameError("chain of this store", chain_id, self.ids)
        return self._index[chain_id]


@contextmanager
def _opened(folder: Path, shard: Shard) -> Iterator[Any]:
    """A shard as a memory map; StoreError where it is not as it was written."""
    path = folder / shard.file
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise StoreError(f"{path} has {size} bytes where {shard.bytes} were written: it is cut or changed; {_ANEW}")
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}); {_ANEW}") from error
    except SafetensorError as error:
        raise StoreError(f"{path} is damaged ({error}); {_ANEW}") from error


def _read_entries(folder: Path, shard: Shard, manifest: Manifest) -> list[Entry]:
    """The chains of a shard, from its header, checked against the manifest; no activation is read."""
    path = folder / shard.file
    with _opened(folder, shard) as file:
        try:
            index = json.loads((file.metadata() or {})["index"])
            offsets, labels, positions = index["offsets"], index["labels"], index["positions"]
            shapes = {site: file.get_slice(site).get_shape() for site in file.keys()}  # noqa: SIM118 - no mapping
        except (ValueError, KeyError) as error:
            raise StoreError(f"{path} has no index of its rows ({error}); {_ANEW}") from error
    expected = {site: [shard.rows, manifest.d_model] for site in manifest.sites}
    if shapes != expected or not shard.rows == offsets[-1] == len(labels) == len(positions):
        raise StoreError(f"{path} does not hold the {shard.rows} rows of every site that {MANIFEST} promises; {_ANEW}")
    return [
        Entry(chain_id, begin, tuple(labels[begin:end]), tuple(positions[begin:end]))
        for chain_id, begin, end in zip(index["ids"], offsets[:-1], offsets[1:], strict=True)
    ]
