"""Activations on disk: what was finished stays, what is damaged is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from faithprobe.chains.store import MANIFEST, Trace, TraceWriter
from faithprobe.errors import StoreError, UnknownNameError
from tests.tiny import tiny_language_model, tiny_model, tiny_tokenizer

SITES = ("hook_embed", "blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
LABELS = ("a/before", "a/ahead", "b/before")


@pytest.fixture(scope="module")
def model():
    return tiny_language_model()


def rows(i, n=3, dtype=torch.float32):
    """The activations of chain i: n positions."""
    generator = torch.Generator().manual_seed(i)
    return torch.randn(n, len(SITES), 32, generator=generator).to(dtype)


def add(writer, i, n=None):
    n = i % 4 if n is None else n
    writer.add(f"chain {i}", LABELS[:n], range(10 + i, 10 + i + n), rows(i, n))


def fill(folder, model, chains=range(10), **options):
    with TraceWriter(folder, model=model, sites=SITES, **{"shard_rows": 4, **options}) as writer:
        for i in chains:
            if f"chain {i}" not in writer.done:
                add(writer, i)
    return folder


def shards(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_goes_in_comes_out(tmp_path, model, dtype):
    trace = Trace(fill(tmp_path / "new" / "store", model, dtype=dtype), model=model)
    assert trace.ids == tuple(f"chain {i}" for i in range(10))
    assert trace.sites == SITES
    assert trace.refused == {}
    assert len(shards(trace.folder)) == 3
    for i in range(10):
        chain = f"chain {i}"
        assert trace.labels(chain) == LABELS[: i % 4]
        assert trace.positions(chain) == tuple(range(10 + i, 10 + i + i % 4))
        assert torch.equal(trace.get(chain), rows(i, i % 4, dtype))


def test_one_label_of_many_chains(tmp_path, model):
    trace = Trace(fill(tmp_path, model))
    for k, label in enumerate(LABELS):
        for s, site in enumerate(SITES):
            ids, found = trace.gather(site, label)
            having = [i for i in range(10) if i % 4 > k]
            assert ids == [f"chain {i}" for i in having]
            assert torch.equal(found, torch.stack([rows(i, i % 4)[k, s] for i in having]))
    ids, found = trace.gather(SITES[0], "nobody's")
    assert ids == []
    assert found.shape == (0, 32)


def test_some_chains_in_the_order_that_is_asked_for(tmp_path, model):
    trace = Trace(fill(tmp_path, model))
    wanted = [f"chain {i}" for i in (7, 2, 3, 6)]
    ids, found = trace.gather(SITES[1], LABELS[1], wanted)
    assert ids == wanted
    assert torch.equal(found, torch.stack([rows(i, i % 4)[1, 1] for i in (7, 2, 3, 6)]))
    assert trace.gather(SITES[1], LABELS[1], [])[1].shape == (0, trace.d_model)
    with pytest.raises(UnknownNameError, match=r"label of 'chain 1'.*a/before"):
        trace.gather(SITES[1], LABELS[1], ["chain 2", "chain 1"])


def test_names_that_are_not_there(tmp_path, model):
    trace = Trace(fill(tmp_path, model))
    with pytest.raises(UnknownNameError, match=r"did you mean 'blocks.0.hook_resid_post'"):
        trace.gather("blocks.0.hook_resid_pos", LABELS[0])
    with pytest.raises(UnknownNameError, match="'chain 99'"):
        trace.get("chain 99")
    with pytest.raises(StoreError, match="holds no trace store"):
        Trace(tmp_path / "nowhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_are_refused_with_their_place(tmp_path, model, value):
    bad = rows(3)
    bad[1, 2, 7] = value
    with TraceWriter(tmp_path, model=model, sites=SITES) as writer:
        writer.add("bad", LABELS, [4, 5, 6], bad)
        add(writer, 2)
        assert {"bad", "chain 2"} == writer.done
    trace = Trace(tmp_path, model=model)
    assert trace.ids == ("chain 2",)
    assert trace.refused == {"bad": f"NaN or infinite activation at {SITES[2]}, position 5 ({LABELS[1]})"}
    with pytest.raises(StoreError, match="'bad' was refused"):
        trace.get("bad")
    assert "bad" in TraceWriter(tmp_path, model=model, sites=SITES).done


def test_a_number_that_the_dtype_cannot_hold_is_refused(tmp_path, model):
    with TraceWriter(tmp_path, model=model, sites=SITES, dtype=torch.float16) as writer:
        writer.add("large", LABELS, [1, 2, 3], rows(0) + 1e6)
    assert "infinite activation at hook_embed, position 1" in Trace(tmp_path).refused["large"]


def test_what_does_not_go_together_is_an_error_and_adds_nothing(tmp_path, model):
    with TraceWriter(tmp_path, model=model, sites=SITES) as writer:
        for labels, positions, activations in [
            (LABELS, [1, 2], rows(0)),
            (LABELS[:2], [1, 2, 3], rows(0)),
            (LABELS, [1, 2, 3], rows(0)[:, :2]),
            (LABELS, [1, 2, 3], rows(0)[:, :, :31]),
            ((LABELS[0],) * 3, [1, 2, 3], rows(0)),
        ]:
            with pytest.raises(StoreError, match=r"expected one label a position"):
                writer.add("chain", labels, positions, activations)
        add(writer, 3)
        with pytest.raises(StoreError, match=r"'chain 3' is in .* already"):
            add(writer, 3)
    assert Trace(tmp_path).ids == ("chain 3",)


def test_a_later_change_of_the_callers_tensor_changes_nothing(tmp_path, model):
    mine = rows(1)
    with TraceWriter(tmp_path, model=model, sites=SITES) as writer:
        writer.add("chain", LABELS, [1, 2, 3], mine)
        mine.zero_()
    assert torch.equal(Trace(tmp_path).get("chain"), rows(1))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, model):
    with suppress(KeyboardInterrupt), TraceWriter(tmp_path, model=model, sites=SITES, shard_rows=4) as writer:
        for i in range(5):
            add(writer, i)
        raise KeyboardInterrupt
    before = {name: (tmp_path / name).read_bytes() for name in shards(tmp_path)}
    assert Trace(tmp_path).ids == tuple(f"chain {i}" for i in range(5))
    (tmp_path / ".shard-00009.safetensors.123.tmp").write_bytes(b"half")
    fill(tmp_path, model)
    assert Trace(tmp_path, model=model).ids == tuple(f"chain {i}" for i in range(10))
    assert not list(tmp_path.glob(".*"))
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    whole = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    fill(tmp_path, model)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == whole, (
        "nothing to do, nothing written"
    )


def test_a_shard_without_its_manifest_is_written_again(tmp_path, model):
    """A run killed between the two renames."""
    fill(tmp_path, model, range(4))
    manifest = (tmp_path / MANIFEST).read_text()
    fill(tmp_path, model, range(7))
    (tmp_path / MANIFEST).write_text(manifest)
    assert Trace(tmp_path).ids == tuple(f"chain {i}" for i in range(4))
    fill(tmp_path, model, [0, 1, 2, 3, 9, 8])
    trace = Trace(tmp_path, model=model)
    assert trace.ids == tuple(f"chain {i}" for i in (0, 1, 2, 3, 9, 8))
    assert torch.equal(trace.get("chain 9"), rows(9, 1))


CHILD = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from faithprobe.chains.store import TraceWriter
from tests.chains.test_store import SITES, add, limit_file_size, tiny_language_model
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    limit_file_size(limit)
with TraceWriter(folder, model=tiny_language_model(), sites=SITES, shard_rows=30) as writer:
    for i in range(100_000):
        add(writer, i, 3 if limit == 0 or i < 20 else 0)
        if limit and i == 20:
            writer.shard_rows = 10**9
        if limit and i > 20:
            break
        time.sleep(0.001)
    if limit:
        for i in range(200, 600):
            add(writer, i, 3)
"""


def limit_file_size(size):
    """No file may grow beyond `size` bytes: a real write that fails, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def child(folder, limit):
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(limit)],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_loses_only_what_it_had_not_flushed(tmp_path, model):
    process = child(tmp_path, 0)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("shard-*"))) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    trace = Trace(tmp_path, model=model)
    assert len(trace.ids) >= 20
    assert len(trace.ids) % 10 == 0
    for i, chain in enumerate(trace.ids):
        assert chain == f"chain {i}"
        assert torch.equal(trace.get(chain), rows(i))
    n = len(trace.ids)
    with TraceWriter(tmp_path, model=model, sites=SITES) as writer:
        assert len(writer.done) == n
        add(writer, n, 3)
    assert len(Trace(tmp_path, model=model).ids) == n + 1


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_is_an_error_that_keeps_what_was_written(tmp_path, model):
    process = child(tmp_path, 64_000)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "StoreError: could not write" in errors
    assert "free some space" in errors
    assert not list(tmp_path.glob(".*")), "the half-written file is removed"
    trace = Trace(tmp_path, model=model)
    assert trace.ids == tuple(f"chain {i}" for i in range(20))
    assert all(torch.equal(trace.get(f"chain {i}"), rows(i)) for i in range(20))
    with TraceWriter(tmp_path, model=model, sites=SITES) as writer:
        add(writer, 20, 3)
    assert len(Trace(tmp_path, model=model).ids) == 21


def test_the_first_error_is_the_one_to_read(tmp_path, model, monkeypatch):
    """A flush that fails while another error is on its way out does not hide it."""
    writer = TraceWriter(tmp_path, model=model, sites=SITES)
    add(writer, 3)
    monkeypatch.setattr(writer, "_write_shard", lambda: (_ for _ in ()).throw(StoreError("full")))
    with suppress(ZeroDivisionError), writer:
        raise ZeroDivisionError
    with pytest.raises(StoreError, match="full"), writer:
        pass
    assert Trace(tmp_path).ids == ()


@pytest.mark.parametrize("cut", ["half", "last byte", "longer", "empty", "header", "missing"])
def test_a_damaged_shard_is_named_and_can_be_recorded_again(tmp_path, model, cut):
    fill(tmp_path, model)
    path = tmp_path / shards(tmp_path)[1]
    data = path.read_bytes()
    damaged = {
        "half": data[: len(data) // 2],
        "last byte": data[:-1],
        "longer": data + b"0",
        "empty": b"",
        "header": b"\xff" * 64 + data[64:],
    }
    if cut == "missing":
        path.unlink()
    else:
        path.write_bytes(damaged[cut])
    with pytest.raises(StoreError, match=rf"{path.name} .*delete this file and run the same command again"):
        Trace(tmp_path)
    if cut != "missing":
        with pytest.raises(StoreError, match=path.name):
            TraceWriter(tmp_path, model=model, sites=SITES)
        path.unlink()
    fill(tmp_path, model)
    trace = Trace(tmp_path, model=model)
    assert sorted(trace.ids) == sorted(f"chain {i}" for i in range(10))
    assert all(torch.equal(trace.get(f"chain {i}"), rows(i, i % 4)) for i in range(10))


def test_a_shard_that_belongs_to_another_store_is_refused(tmp_path, model):
    fill(tmp_path / "a", model)
    with TraceWriter(tmp_path / "b", model=model, sites=SITES[:2], shard_rows=4) as writer:
        writer.add("other", LABELS, [1, 2, 3], rows(0)[:, :2])
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    (other,) = (tmp_path / "b").glob("shard-*")
    mine = tmp_path / "a" / manifest["shards"][0]["file"]
    mine.write_bytes(other.read_bytes())
    manifest["shards"][0]["bytes"] = mine.stat().st_size
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=rf"{mine.name} does not hold the \d+ rows of every site"):
        Trace(tmp_path / "a")


def test_a_store_of_another_model_is_refused(tmp_path, model):
    fill(tmp_path, model)
    other = tiny_language_model(seed=1)
    for opens in (Trace, lambda folder, model: TraceWriter(folder, model=model, sites=SITES)):
        with pytest.raises(StoreError, match=rf"another model.*{model.fingerprint}, not {other.fingerprint}; give"):
            opens(tmp_path, model=other)
    from faithprobe.models import load_model

    retokenized = load_model(tiny_model(), tiny_tokenizer("merged"), name="tiny")
    for opens in (Trace, lambda folder, model: TraceWriter(folder, model=model, sites=SITES)):
        with pytest.raises(StoreError, match="another tokenizer"):
            opens(tmp_path, model=retokenized)


def test_other_sites_or_another_dtype_are_refused(tmp_path, model):
    fill(tmp_path, model)
    with pytest.raises(StoreError, match=r"another sites: \['hook_embed', .* not \['hook_embed'\]"):
        TraceWriter(tmp_path, model=model, sites=SITES[:1])
    with pytest.raises(StoreError, match="another dtype: float32, not float16"):
        TraceWriter(tmp_path, model=model, sites=SITES, dtype=torch.float16)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "shards": [{"file": 3}]}'])
def test_a_manifest_that_cannot_be_read(tmp_path, model, text):
    fill(tmp_path, model)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=r"manifest.json cannot be read .* delete the folder"):
        Trace(tmp_path)


def test_a_later_format_is_not_guessed_at(tmp_path, model):
    fill(tmp_path, model)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(StoreError, match="another format"):
        Trace(tmp_path)


def test_reading_touches_only_what_is_asked_for(tmp_path, model, monkeypatch):
    """Opening reads headers; `gather` reads one site, `get` one chain's rows."""
    fill(tmp_path, model)
    read = []

    class Watched:
        def __init__(self, *args, **options):
            self.file = safe_open(*args, **options)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def metadata(self):
            return self.file.metadata()

        def keys(self):
            return self.file.keys()

        def get_slice(self, site):
            inner = self.file.get_slice(site)

            class Slice:
                get_shape = staticmethod(inner.get_shape)

                def __getitem__(self, key):
                    read.append((site, key))
                    return inner[key]

            return Slice()

    monkeypatch.setattr("faithprobe.chains.store.safe_open", Watched)
    trace = Trace(tmp_path, model=model)
    assert read == []
    trace.get("chain 2")
    assert read == [(site, slice(1, 3)) for site in SITES]
    read.clear()
    trace.gather(SITES[1], LABELS[2])
    assert {site for site, _ in read} == {SITES[1]}
    assert len(read) == 2, "only shards that hold the label"
