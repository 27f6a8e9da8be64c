"""The errors that this package raises; each message names the value received and what to do."""


class LoaderError(Exception):
    """Base of every error that the package raises on purpose. Command lines print it as one line."""


class ScheduleError(LoaderError, ValueError):
    """A schedule or a budget that cannot be: ratio outside (0, 1], stages that do not fit, …"""


class DatasetError(LoaderError):
    """A dataset file or an input folder that is missing, foreign, truncated or inconsistent."""


class CorruptSampleError(DatasetError):
    """One sample whose bytes do not decode. `sample` is its index in the dataset file, `why` what is wrong with it."""

    def __init__(self, message: str, *, sample: int, why: str = "") -> None:
        super().__init__(message)
        self.sample, self.why = sample, why or message


class StorageError(DatasetError):
    """Object storage, or the cache of it, that cannot be read or written; it says which sample, and why."""


class ResumeError(LoaderError):
    """A `state_dict` that was taken from another stream than the one it is loaded into."""


class EngineError(LoaderError, RuntimeError):
    """An engine that failed, was closed, or is not installed."""


class ArgumentError(EngineError, ValueError):
    """An argument of a loader or an engine that cannot be used; an `EngineError`, too, as version 0.1 raised that."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of a type that cannot be used, or a keyword that there is not."""


class ServiceGoneError(EngineError):
    """A service that is not running, or ended while it was in use: `connect` again once it is back."""


def first_line(error: object) -> str:
    """The first line of an error, up to 300 letters; its type's name if it says nothing."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:300]
