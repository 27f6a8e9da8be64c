"""The messages between a trainer, its bridge and the service's coordinator.

A trainer starts a bridge and sends it requests, as JSON over a socket pair (`wire`). The bridge answers in the order of
the requests. Some messages come with file descriptors:

    request (trainer → bridge)               answer (bridge → trainer)
    Hello           connect to the service   Welcome        one: the dataset's sizes and labels
    StatusRequest   what is going on         ServiceStatus
    Setup           what batches look like   none
    Buffer          one: the memory          none
    BlockIds        what a block consists of none
    BatchRequest    make a batch             BatchAnswer    with the first loan two: the object store's memory, and the
                                                            bridge's connection to the store (see `lending`)

A `Failure` may stand in place of any answer.

Trainer and bridge belong to one user and are of one version, but neither trusts the other: decoding checks that every
field is present, of its type and in its range. What depends on the dataset is checked by `BatchRequest.check`.

What the bridge and the coordinator exchange through Ray is in `exchange` and `status`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeVar

import numpy as np

from budgetloader.errors import CorruptSampleError, EngineError, LoaderError, ServiceGoneError
from budgetloader.service.blocks import BLOCK, Spec
from budgetloader.service.registry import Entry
from budgetloader.service.status import Count, Seconds, ServiceStatus

try:
    import msgspec
    from msgspec import Meta, Struct
except ImportError:
    raise EngineError("msgspec is not installed; pip install 'budgetloader[service]'") from None

Positive = Annotated[int, Meta(ge=1, lt=1 << 62)]
Span = tuple[Count, Count]
_MOST_BLOCKS = 1 << 48
_TONE_COLUMNS = {"uint8": 0, "uint16": 256, "float32": 2}  # see `budgetloader.resize.resample`


class ProtocolError(Exception):
    """What came is no message of this protocol."""


class _Message(Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    pass


# Requests


class Hello(_Message, frozen=True, tag="hello"):
    """Connect to a service.

    Attributes:
        entry: where the service is, and its token.
        label: what people see this trainer as.
    """

    entry: Entry
    label: str


class StatusRequest(_Message, frozen=True, tag="status"):
    """What is the service doing?"""


class Setup(_Message, frozen=True, tag="setup"):
    """What the trainer's batches look like.

    Attributes:
        spec: what their images depend on.
        schedule: the trainer's, for people to see.
        layout, dtype: of the buffers; float16 and bfloat16 are uint16, by their bits.
        tone: for each channel what to write for a pixel value; see `budgetloader.resize.resample`.
    """

    spec: Spec
    schedule: str
    layout: Literal["channels_last", "contiguous"]
    dtype: Literal["uint8", "uint16", "float32"]
    tone: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        columns = _TONE_COLUMNS[self.dtype]
        if len(self.tone) != self.spec.channels:
            raise ValueError(f"a tone of {self.spec.channels} channels has {len(self.tone)} rows")
        if any(len(row) != columns for row in self.tone):
            raise ValueError(f"a tone of {self.dtype} has {columns} columns")
        if self.dtype == "uint16" and not all(0 <= v < 1 << 16 and v.is_integer() for row in self.tone for v in row):
            raise ValueError("a tone of uint16 has whole numbers below 65,536")

    @property
    def tone_array(self) -> np.ndarray:
        """The tone as `budgetloader.resize.apply_tone` takes it: uint16 [channels, 256], or float32 [channels, 2] or
        [channels, 0]."""
        return np.array(self.tone, np.uint16 if self.dtype == "uint16" else np.float32).reshape(len(self.tone), -1)


class Buffer(_Message, frozen=True, tag="buffer"):
    """Memory that batches are written to; its descriptor is attached.

    Attributes:
        id: by which batches name it.
        shape: [batch, height, width, channels] or [batch, channels, height, width].
    """

    id: Count
    shape: tuple[Positive, Positive, Positive, Positive]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


class BlockIds(_Message, frozen=True, tag="ids"):
    """Which samples stand in a block, where the trainer draws from another order than that of the whole set.

    It comes before the first batch that needs the block.

    Attributes:
        epoch, number: of the block.
        samples: what stands at its positions, from its first on.
    """

    epoch: Count
    number: Count
    samples: tuple[Count, ...]

    def check(self, *, samples: int) -> None:
        """Refuse what no block can consist of.

        Raises:
            ProtocolError: no sample, more than a block has, or some that the dataset does not have.
        """
        if not 0 < len(self.samples) <= BLOCK or max(self.samples) >= samples or self.number >= _MOST_BLOCKS:
            raise ProtocolError(f"block {self.number} is of {len(self.samples)} samples of a dataset of {samples:,}")

    @property
    def ids(self) -> bytes:
        """The samples as a block's key has them."""
        return np.array(self.samples, "<i8").tobytes()


class BatchRequest(_Message, frozen=True, tag="batch"):
    """Make a batch.

    Attributes:
        buffer: where it is written to, unless it is lent.
        epoch, step: whose batch it is.
        spans: its positions in the epoch's order, as stretches [start, stop).
        ends: how many positions this epoch's budget has, and the next one's.
        returned: loans that the trainer does not use any more.
    """

    buffer: Count
    epoch: Count
    step: Count
    spans: tuple[Span, ...]
    ends: tuple[Count, Count]
    returned: tuple[Count, ...]

    @property
    def samples(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    def check(self, *, samples: int) -> None:
        """Nothing is looped over or allocated by a number that a batch cannot have.

        Args:
            samples: of the dataset.

        Raises:
            ProtocolError: the batch reaches beyond the dataset, or is empty.
        """
        if max(self.ends) > samples:
            raise ProtocolError(f"a budget is larger than the dataset of {samples:,} samples")
        if not self.spans or not all(start < stop <= self.ends[0] for start, stop in self.spans):
            raise ProtocolError(f"a batch is of positions that a budget of {self.ends[0]:,} samples does not have")


Request = Hello | StatusRequest | Setup | Buffer | BlockIds | BatchRequest


# Answers


class Welcome(_Message, frozen=True, tag="welcome"):
    """The dataset. Attached: int64 [3, samples], its heights, widths and labels.

    Attributes:
        path, files, fingerprint, classes, verifies: see `ServedDataset`.
        capacity_bytes: of the blocks that the service caches.
        workers: decoding processes.
        samples: of the dataset.
    """

    path: str
    files: tuple[tuple[str, Count], ...]
    fingerprint: str
    classes: tuple[str, ...]
    verifies: bool
    capacity_bytes: Count
    workers: Positive
    samples: Positive


class Loan(Struct, frozen=True, forbid_unknown_fields=True):
    """A batch in the object store's memory.

    Attributes:
        number: by which the trainer returns it.
        offset: of the batch, in bytes from the start of the store's memory.
    """

    number: Count
    offset: Count


class BatchAnswer(_Message, frozen=True, tag="batch"):
    """A batch: in the buffer, or lent.

    Attributes:
        decoded: samples that were decoded because this trainer asked first.
        decode_busy_seconds: that the service's workers are at work for it.
        copied: batches so far that were copied because the object store's memory was not found.
        store_seconds: of the time in which its blocks were waited for, what went into waiting for object storage.
        replaced: (row, sample) where another sample stands in for one that does not decode.
        loan: where the batch is, if it is lent.
    """

    decoded: Count
    decode_busy_seconds: Seconds
    copied: Count
    replaced: tuple[tuple[Count, Count], ...] = ()
    loan: Loan | None = None
    store_seconds: Seconds = 0.0


class Failure(_Message, frozen=True, tag="failure"):
    """An error in place of an answer.

    Attributes:
        message: for people.
        kind: "gone": the service; "sample": one that does not decode; "engine": anything else.
        sample: its number, where it is one that does not decode.
    """

    message: str
    kind: Literal["engine", "gone", "sample"] = "engine"
    sample: Count = 0

    @classmethod
    def of(cls, error: LoaderError) -> Failure:
        """The message for an error."""
        if isinstance(error, CorruptSampleError):
            return cls(str(error), "sample", error.sample)
        return cls(str(error), "gone" if isinstance(error, ServiceGoneError) else "engine")

    @property
    def error(self) -> LoaderError:
        """The error that the trainer gets."""
        if self.kind == "sample":
            return CorruptSampleError(self.message, sample=self.sample)
        return ServiceGoneError(self.message) if self.kind == "gone" else EngineError(self.message)


Answer = Welcome | BatchAnswer | ServiceStatus | Failure

_T = TypeVar("_T")
_REQUESTS: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    return msgspec.json.encode(message)


def decode_request(data: bytes) -> Request:
    """The request that a trainer sent.

    Raises:
        ProtocolError: it is none.
    """
    return _decode(_REQUESTS, data)


def decode_answer(data: bytes) -> Answer:
    """The answer that a bridge gave.

    Raises:
        ProtocolError: it is none.
    """
    return _decode(_ANSWERS, data)


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"no message of this protocol: {str(error)[:200]}") from None
