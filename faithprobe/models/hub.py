"""The Hugging Face hub: whether it can be asked at all, and why it gave no model."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from faithprobe.errors import ModelError

_ELSEWHERE = "Without a network, pass a folder, a .gguf file or a registered name such as smollm2"


def within_reach() -> bool:
    """False where the hub's host has no address, as without a network: then only what was downloaded before is read.

    The hub's own client would try again for half a minute, file by file. Behind a proxy the answer is always True.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode() or getproxies():
        return True  # the client knows at once; the proxy knows the address
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def downloaded(name: str, revision: str | None) -> str:
    """The folder of a model of the hub that was downloaded before, without asking the hub; raises ModelError."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:  # LocalEntryNotFoundError, HFValidationError, ...
        raise unavailable(name, error) from error


def unavailable(name: str, error: Exception) -> ModelError:
    """What to say of a model that the hub did not give: what is wrong, in the hub's own terms, and the way out."""
    kinds = {type(cause).__name__ for cause in _causes(error)}
    start = f"{name!r} is no folder here and could not be loaded from the Hugging Face hub: "
    if "GatedRepoError" in kinds:
        return ModelError(
            f"{start}it is gated. Accept its terms at https://huggingface.co/{name}, then log in: hf auth login"
        )
    if "RepositoryNotFoundError" in kinds:
        return ModelError(
            f"{start}there is no such model, or it is private. Look for its name, owner/name, at "
            "https://huggingface.co/models; for a private one log in: hf auth login"
        )
    if "OfflineModeIsEnabled" in kinds:
        return ModelError(
            f"{start}the hub is switched off (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set), and the model was not "
            f"downloaded before. {_ELSEWHERE}"
        )
    if "LocalEntryNotFoundError" in kinds:
        return ModelError(f"{start}it cannot be reached, and the model was not downloaded before. {_ELSEWHERE}")
    words = str(error).strip().splitlines()
    return ModelError(f"{start}{type(error).__name__}: {words[0] if words else ''} {_ELSEWHERE}")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
