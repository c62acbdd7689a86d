"""From whatever the user has in hand to a validated `LanguageModel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithprobe.errors import FaithprobeError, ModelError, OutOfMemoryError, is_out_of_memory
from faithprobe.models.folder import check_folder, no_folder
from faithprobe.models.hub import downloaded, unavailable, within_reach
from faithprobe.models.language_model import LanguageModel, model_fingerprint
from faithprobe.models.registry import registered

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SMALLER = "take a smaller dtype (--dtype bfloat16), another device or a smaller model"


def load_model(
    source: str | Path | PreTrainedModel | LanguageModel | Any,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    validate: bool = True,
) -> LanguageModel:
    """Loads a causal language model and checks that its sites can be read and edited.

    Args:
        source: a registered name (`smollm2`; see `model_names`), `organism:NAME`, a folder with safetensors, a `.gguf`
            file, a Hugging Face id `owner/name`, a `PreTrainedModel`, or a `TransformerBridge`. Objects are used as
            they are: never moved, cast, rewritten or switched between train and eval.
        tokenizer: the tokenizer, or a folder or id to load it from; needed with a `PreTrainedModel`, otherwise
            optional.
        name: how reports call the model; by default what `source` says.
        dtype: of the weights, `bfloat16` for example; by default float32 on a CPU and the checkpoint's own elsewhere.
        device: by default the first CUDA device, else the CPU.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run the Python code that comes with the weights.
        validate: False skips the check (two short forward passes).

    Raises:
        UnknownNameError: a name that nobody registered; lists near matches.
        ModelError: nothing to load there, weights missing or not safetensors, no tokenizer, or the check failed.
    """
    if isinstance(source, LanguageModel):
        return source
    options = {"dtype": dtype, "device": device, "revision": revision}
    hf, found_tokenizer, found_name = _resolve(source, options, trust_remote_code, with_tokenizer=tokenizer is None)
    if tokenizer is None:
        tokenizer = found_tokenizer
    elif isinstance(tokenizer, str | Path):
        tokenizer = _load_tokenizer(str(tokenizer), None, trust_remote_code)
    if tokenizer is None:
        raise ModelError(f"{found_name} came without a tokenizer; pass it: load_model(model, tokenizer)")

    from faithprobe.models.sites import Sites, is_bridge
    from faithprobe.models.validate import validate_model

    sites = Sites.of(hf)
    inner = hf.original_model if is_bridge(hf) else hf
    model = LanguageModel(inner, tokenizer, name or found_name, sites, model_fingerprint(inner))
    if validate:
        validate_model(model)
    return model


def _resolve(
    source: Any, options: dict[str, Any], trust_remote_code: bool, *, with_tokenizer: bool
) -> tuple[Any, Any, str]:
    """The model (or bridge), its tokenizer if it brought one, and its name."""
    if isinstance(source, str | Path):
        place: Any = registered(source) if isinstance(source, str) else None
        if place is None:
            place = source
        if isinstance(place, tuple):
            hf, tokenizer = place
            return _moved(hf, options), tokenizer, str(source)
        hf, tokenizer = _load_pretrained(place, options, trust_remote_code, with_tokenizer=with_tokenizer)
        here = Path(source).expanduser()  # a report names the model, not where a disk holds it
        return hf, tokenizer, here.resolve().name if here.exists() else str(source)

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ModelError(
            f"{', '.join(given)} cannot be chosen for a {type(source).__name__} that exists already: faithprobe does "
            "not change your model; move or cast it before you hand it over"
        )
    from transformers import PreTrainedModel

    from faithprobe.models.sites import is_bridge

    if is_bridge(source):
        if not isinstance(getattr(source, "original_model", None), PreTrainedModel):
            raise ModelError("this TransformerBridge holds no Hugging Face model; boot it with boot_transformers")
        return source, source.tokenizer, str(source.cfg.model_name)
    if isinstance(source, PreTrainedModel) or hasattr(source, "peft_config"):
        return source, None, str(source.config.name_or_path or type(source).__name__)
    if hasattr(source, "_orig_mod"):
        raise ModelError(
            "the model is compiled, and hooks set after torch.compile do not fire: pass the plain model, and leave "
            "torch.compile for later"
        )
    raise ModelError(
        f"cannot load a model from a {type(source).__name__}; pass a name, a folder, a .gguf file, a Hugging Face "
        "model with its tokenizer, or a TransformerBridge"
    )


def _load_pretrained(
    place: str | Path, options: dict[str, Any], trust_remote_code: bool, *, with_tokenizer: bool
) -> tuple[Any, Any]:
    """Model and tokenizer from a folder, a `.gguf` file or the hub."""
    folder = Path(place).expanduser()
    if folder.suffix == ".gguf":
        from faithprobe.models.gguf import converted

        if not folder.is_file():
            raise no_folder(folder)
        folder = converted(folder)
    if folder.is_dir():
        check_folder(folder, with_tokenizer=with_tokenizer)
        location = str(folder)
    elif isinstance(place, Path) or str(place).startswith((".", "/", "~")):
        raise no_folder(folder)
    else:
        location = str(place) if within_reach() else downloaded(str(place), options["revision"])
    hf = _load_weights(location, options, trust_remote_code)
    tokenizer = _load_tokenizer(location, options["revision"], trust_remote_code) if with_tokenizer else None
    return hf, tokenizer


def _load_weights(location: str, options: dict[str, Any], trust_remote_code: bool) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    device = _device(options["device"])
    dtype = options["dtype"] or ("float32" if device.type == "cpu" else "auto")
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise ModelError(f"no dtype is called {dtype!r}; use float32, bfloat16, float16 or auto")
    try:
        hf, report = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=dtype,
            revision=options["revision"] or "main",
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, SafetensorError, ...
        raise _explained(location, error) from error
    # transformers fills what a checkpoint lacks with random numbers and only prints a warning.
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report.get("mismatched_keys", ()))
    if lacking:
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise ModelError(
            f"the checkpoint {location} lacks {len(lacking)} of the tensors that {type(hf).__name__} needs ({shown}); "
            "they would be random. Use a complete causal language model"
        )
    return _placed(hf, device)


def _load_tokenizer(location: str, revision: str | None, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            location,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        raise ModelError(
            f"no tokenizer could be loaded from {location} ({_first_line(error)}); put tokenizer.json and "
            "tokenizer_config.json of the model that it was trained from beside the weights, or pass one: "
            "load_model(source, tokenizer)"
        ) from error


def _explained(location: str, error: Exception) -> FaithprobeError:
    words = _first_line(error)
    if "custom code" in str(error):
        return ModelError(
            f"{location} comes with Python code of its own. If you trust it, run it: --trust-remote-code, or "
            "load_model(..., trust_remote_code=True)"
        )
    if "does not recognize this architecture" in str(error):
        return ModelError(f"{location} cannot be loaded: {words} Try a newer one: pip install -U transformers")
    if is_out_of_memory(error):
        return OutOfMemoryError(f"{location} does not fit into memory ({words}); {_SMALLER}")
    if Path(location).is_dir():
        return ModelError(
            f"{location} cannot be loaded: {words} Where a file of it is cut or changed, copy it there again"
        )
    return unavailable(location, error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _moved(hf: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    """A model that a loader has just made is ours to place, unlike one that the user hands over."""
    import torch

    device = _device(options["device"])
    if options["dtype"] not in (None, "auto"):
        dtype = options["dtype"]
        hf = hf.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return _placed(hf, device)


def _placed(hf: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        return hf.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(weight.numel() * weight.element_size() for weight in hf.parameters()) / 1e9
        raise OutOfMemoryError(
            f"{type(hf).__name__} takes {size:.1f} GB in {hf.dtype}, and {device} has no room for it "
            f"({_first_line(error)}); {_SMALLER}"
        ) from error


def _device(device: str | torch.device | None) -> torch.device:
    """The device, which was tried; raises ModelError with those that there are."""
    import torch

    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModelError(f"no device is called {device!r}; {_devices()}") from error
    try:
        torch.zeros(1, device=found).cpu()
    except Exception as error:  # AssertionError, RuntimeError, NotImplementedError, by device
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"{found} has no memory left at all ({_first_line(error)}); {_SMALLER}") from error
        raise ModelError(
            f"the device {str(found)!r} cannot be used here ({_first_line(error)}); {_devices()}"
        ) from error
    return found


def _devices() -> str:
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    metal = ["mps"] if torch.backends.mps.is_available() else []
    without = "" if gpus or metal else "; for a GPU, install a PyTorch that is built for it and look at its driver"
    return f"here there is: {', '.join(['cpu', *gpus, *metal])}{without}"
