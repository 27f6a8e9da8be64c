"""The messages between a trainer and its bridge."""

import json
import pickle
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import CorruptSampleError, DatasetError, EngineError, ServiceGoneError
from budgetloader.engines.base import OnCorrupt
from budgetloader.plans import Crop
from budgetloader.resize import Interpolation
from budgetloader.service import protocol, registry, status
from budgetloader.service.blocks import Spec
from budgetloader.service.protocol import BatchAnswer, BatchRequest, Failure, ProtocolError, Setup

ENTRY = registry.Entry("a", "127.0.0.1:1", "t", "host", "boot", 1, None, "/nowhere", "127.0.0.1")
SPEC = Spec("f", 8, "antialias", "resized", 2**64 - 1, "raise")
TRAINER = status.TrainerStatus("id", "name", "R3", 1, 2, 3, 4, 5.5, 0.5, 0, 1.5)
STORE = status.StoreStatus(1, 2, 3, 4, 5, 6, 7, (0.1, 0.2, 0.3), 8.5, 0.25)
COUNTS = st.integers(0, (1 << 62) - 1)
REQUESTS = (
    protocol.Hello(ENTRY, "me"),
    protocol.StatusRequest(),
    Setup(SPEC, "R3@4", "channels_last", "uint8", ((), (), ())),
    Setup(SPEC, "R3@4", "contiguous", "float32", ((0.1, 2.0),) * 3),
    Setup(SPEC, "R3@4", "contiguous", "uint16", ((65_535.0,) * 256,) * 3),
    protocol.Buffer(1 << 47, (16, 8, 8, 3)),
    BatchRequest(1, 0, 3, ((0, 8), (16, 24)), (64, 32), (0, 1)),
)
ANSWERS = (
    protocol.Welcome("p", (("p", 64),), "f", ("a", "ä" * 100_000), True, 1 << 40, 2, 64),
    BatchAnswer(3, 0.5, 1, ((0, 0), (7, (1 << 62) - 1)), protocol.Loan(0, 64)),
    BatchAnswer(0, 0.0, 0),
    BatchAnswer(0, 0.0, 0, store_seconds=0.25),
    Failure("bad", "sample", 3),
    status.ServiceStatus("p", 64, 1.5, 1, 2, 3, 4, 5, 6, 7, (TRAINER,)),
    status.ServiceStatus("p", 64, 1.5, 1, 2, 3, 4, 5, 6, 7, (), STORE),
)


def changed(message, **fields):
    return json.dumps({**json.loads(protocol.encode(message)), **fields}).encode()


@pytest.mark.parametrize("message", REQUESTS + ANSWERS, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message):
    decode = protocol.decode_request if message in REQUESTS else protocol.decode_answer
    assert decode(protocol.encode(message)) == message


@given(st.lists(st.tuples(COUNTS, COUNTS)), COUNTS, st.lists(COUNTS))
def test_any_batch_request_arrives_as_it_was_sent(spans, number, returned):
    request = BatchRequest(number, number, number, tuple(spans), (number, number), tuple(returned))
    assert protocol.decode_request(protocol.encode(request)) == request


@pytest.mark.parametrize(
    ("message", "fields", "why"),
    [
        (REQUESTS[-1], {"epoch": -1}, "epoch"),
        (REQUESTS[-1], {"epoch": 1 << 62}, "epoch"),
        (REQUESTS[-1], {"epoch": 1.0}, "epoch"),
        (REQUESTS[-1], {"epoch": True}, "epoch"),
        (REQUESTS[-1], {"spans": [[0, 1, 2]]}, "spans"),
        (REQUESTS[-1], {"ends": [1]}, "ends"),
        (REQUESTS[-1], {"other": 1}, "other"),
        (REQUESTS[-1], {"op": "exec"}, "exec"),
        (REQUESTS[-1], {"op": None}, "op"),
        (REQUESTS[2], {"dtype": "object"}, "dtype"),
        (REQUESTS[2], {"dtype": "uint16"}, "256 columns"),
        (REQUESTS[4], {"tone": [[70_000] * 256] * 3}, "65,536"),
        (REQUESTS[4], {"tone": [[0.5] * 256] * 3}, "65,536"),
        (REQUESTS[2], {"spec": {**json.loads(protocol.encode(REQUESTS[2]))["spec"], "image_size": 70_000}}, "70000"),
        (REQUESTS[2], {"spec": {**json.loads(protocol.encode(REQUESTS[2]))["spec"], "seed": 2**64}}, "seed"),
        (REQUESTS[2], {"spec": {**json.loads(protocol.encode(REQUESTS[2]))["spec"], "crop": "x"}}, "crop"),
        (REQUESTS[5], {"shape": [0, 8, 8, 3]}, "shape"),
        (REQUESTS[5], {"shape": [8, 8, 3]}, "shape"),
    ],
)
def test_a_request_with_a_wrong_field_is_refused_and_the_field_is_named(message, fields, why):
    with pytest.raises(ProtocolError, match=why):
        protocol.decode_request(changed(message, **fields))


@pytest.mark.parametrize(
    "fields", [{"decoded": -1}, {"replaced": [[0, 1 << 63]]}, {"loan": {"number": 0}}, {"op": "x"}]
)
def test_an_answer_with_a_wrong_field_is_refused(fields):
    with pytest.raises(ProtocolError):
        protocol.decode_answer(changed(ANSWERS[1], **fields))


NO_MESSAGES = (
    *(b"[" * 60_000, b'{"op":' * 60_000, b"1" * 5000, b"null", b"@", b'{"op":"status"}}', b'{"op":"\xff"}'),
    b'{"op":"status","a":' + b"[" * 60_000,
)


@given(st.one_of(st.binary(max_size=200), st.sampled_from(NO_MESSAGES)))
def test_any_other_bytes_are_one_error(data):
    for decode in (protocol.decode_request, protocol.decode_answer):
        with pytest.raises(ProtocolError):
            decode(data)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"spans": ()}, "positions"),
        ({"spans": ((8, 8),)}, "positions"),
        ({"spans": ((9, 8),)}, "positions"),
        ({"spans": ((0, 65),)}, "positions"),
        ({"spans": ((0, 33),), "ends": (32, 64)}, "budget of 32"),
        ({"ends": (65, 0)}, "a budget is larger"),
        ({"ends": (64, 65)}, "a budget is larger"),
    ],
)
def test_a_batch_beyond_the_dataset_is_refused(fields, why):
    names = {name: getattr(REQUESTS[-1], name) for name in REQUESTS[-1].__struct_fields__}
    BatchRequest(**names).check(samples=64)
    with pytest.raises(ProtocolError, match=why):
        BatchRequest(**{**names, **fields}).check(samples=64)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ServiceGoneError("it is gone"), ServiceGoneError),
        (EngineError("it refuses"), EngineError),
        (CorruptSampleError("it does not decode", sample=7), CorruptSampleError),
        (DatasetError("another file"), EngineError),
    ],
)
def test_an_error_arrives_as_one_of_its_kind(error, kind):
    got = protocol.decode_answer(protocol.encode(Failure.of(error))).error
    assert type(got) is kind and str(got) == str(error)
    assert getattr(got, "sample", None) == getattr(error, "sample", None)


def test_a_tone_has_the_shape_that_native_code_reads():
    shapes = [(m.tone_array.shape, m.tone_array.dtype) for m in REQUESTS if isinstance(m, Setup)]
    assert shapes == [((3, 0), np.float32), ((3, 2), np.float32), ((3, 256), np.uint16)]


def test_the_choices_of_a_spec_are_those_of_a_loader():
    hints = typing.get_type_hints(Spec)
    assert hints["interpolation"] == Interpolation and hints["crop"] == Crop and hints["on_corrupt"] == OnCorrupt


def test_ray_can_pickle_what_a_service_says():
    for message in (ANSWERS[-1], SPEC):
        assert pickle.loads(pickle.dumps(message)) == message
