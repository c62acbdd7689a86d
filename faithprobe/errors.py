"""Errors of faithprobe: each names what was wrong (hook, layer, position, shape, file, row) and the way out."""


class FaithprobeError(Exception):
    """Base of every error that faithprobe raises on purpose."""


class UnknownNameError(FaithprobeError):
    """A model, task or site that does not exist; the message lists near matches."""

    def __init__(self, kind: str, name: str, known: "list[str] | tuple[str, ...]", hint: str = "") -> None:
        super().__init__(f"no {kind} is called {name!r}; {way_out(name, known)}{' ' + hint if hint else ''}")


def way_out(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """What may have been meant by a name that is not known: near matches, or all that there are."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(known)}"


class TaskError(FaithprobeError):
    """A problem, a data file or a family's option that cannot be used."""


class ModelError(FaithprobeError):
    """A model that cannot be loaded, or that failed the checks made when it is loaded."""


class OutOfMemoryError(FaithprobeError, MemoryError):
    """A device or the host has too little memory, also for one item at a time."""


class HookError(FaithprobeError):
    """A hook that did not fire exactly as often as it must, or saw a tensor of the wrong shape."""


class ContextLengthError(FaithprobeError):
    """A prompt that does not leave room for a chain in the model's context."""


class StoreError(FaithprobeError):
    """A trace store or an audit folder that is cut, damaged, or belongs to another model."""


class MetricError(FaithprobeError):
    """A metric, such as one's own, that throws or returns something else than measurements."""


class UnscoredError(FaithprobeError):
    """Raised inside a metric when nothing can be measured; becomes an *unscored* row with this reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had too little memory; both come as RuntimeError, told apart by their words."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words
