import threading

import numpy as np
import pytest
import torch

from budgetloader.bench.fake_cuda import FakeCUDA


@pytest.fixture
def fake():
    with FakeCUDA(devices=2) as fake:
        yield fake


def pinned(count=64):
    return torch.zeros(count, pin_memory=True)


def test_tensors_say_where_they_are_and_compute(fake):
    there = torch.arange(6.0).to("cuda").view(2, 3)
    assert (str(there.device), str(there[1:].device), str((there + 1).device)) == ("cuda:0", "cuda:0", "cuda:0")
    assert str(torch.zeros(2, device="cuda:1").device) == "cuda:1" and torch.zeros(2).device.type == "cpu"
    assert there.sum().item() == 15 and there.cpu().device.type == "cpu" and pinned().is_pinned()
    assert not fake.order.faults


def test_two_streams_without_an_event_between_them_are_a_fault(fake):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = torch.ones(8, device="cuda")
    there + 1
    assert fake.order.faults == ["cuda:0 memory: add on cuda:0 default is not ordered after ones on cuda:0 stream 1"]


@pytest.mark.parametrize("how", ["event", "stream", "host"])
def test_an_event_a_stream_or_the_host_orders_them(fake, how):
    stream, event = torch.cuda.Stream(), torch.cuda.Event()
    with torch.cuda.stream(stream):
        there = torch.ones(8, device="cuda")
        event.record()
    if how == "event":
        torch.cuda.current_stream().wait_event(event)
    elif how == "stream":
        torch.cuda.current_stream().wait_stream(stream)
    else:
        stream.synchronize()
    there + 1
    assert not fake.order.faults


def test_an_event_of_before_the_write_orders_nothing(fake):
    stream, event = torch.cuda.Stream(), torch.cuda.Event()
    event.record(stream)
    with torch.cuda.stream(stream):
        there = torch.ones(8, device="cuda")
    torch.cuda.current_stream().wait_event(event)
    there + 1
    assert len(fake.order.faults) == 1


def test_pinned_memory_written_before_its_copy_has_ended_is_a_fault(fake):
    host = pinned()
    host.to("cuda", non_blocking=True)
    host.add_(1)
    assert "pinned memory: add_ on host is not ordered after copy_" in fake.order.faults[0]


def test_a_blocking_copy_and_one_of_pageable_memory_are_waited_for(fake):
    host = pinned()
    host.to("cuda")
    host.add_(1)
    torch.ones(4).to("cuda", non_blocking=True)
    assert not fake.order.faults and fake.order.waits == ["cuda:0 default"] * 2


def test_freed_memory_is_taken_again_under_a_queued_kernel_unless_the_stream_was_recorded():
    def run(seed, record):
        with FakeCUDA(seed=seed) as fake:
            side, event = torch.cuda.Stream(), torch.cuda.Event()
            for _ in range(6):
                with torch.cuda.stream(side):
                    there = torch.ones(8, device="cuda")
                    event.record()
                torch.cuda.current_stream().wait_event(event)
                if record:
                    there.record_stream(torch.cuda.current_stream())
                there.sum()
                del there
            return fake.order.faults

    assert all(run(seed, record=False) for seed in range(5))
    assert not any(run(seed, record=True) for seed in range(20))


def test_what_touches_another_processs_device_is_a_fault():
    with FakeCUDA(devices=2, home={1}) as fake:
        torch.cuda.set_device(1)
        torch.ones(3, device="cuda")
        assert not fake.order.faults
        thread = threading.Thread(target=lambda: torch.ones(3, device="cuda"))  # whose current device is 0
        thread.start()
        thread.join()
    assert fake.order.faults and all("on cuda:0, which belongs to another process" in f for f in fake.order.faults)


def test_kernels_over_two_devices_and_over_host_memory_are_faults(fake):
    torch.ones(3, device="cuda:0") + torch.ones(3, device="cuda:1")
    torch.ones(3, device="cuda:0") + torch.ones(3)
    assert "add reads from several devices: cuda:0, cuda:1" in fake.order.faults
    assert "add on cuda:0 default reads memory of the host" in fake.order.faults
    with pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device="cuda").numpy()


def test_events_know_their_device(fake):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(torch.cuda.current_stream("cuda:1"))
    with pytest.raises(RuntimeError, match="cuda:1 is recorded on cuda:0"):
        begin.record()
    end.record()
    with pytest.raises(RuntimeError, match="no time between"):
        begin.elapsed_time(end)


def test_failures_are_raised_once_in_place_of_an_operation(fake):
    fake.failures["add"] = torch.OutOfMemoryError("made up")
    with pytest.raises(torch.OutOfMemoryError):
        torch.ones(3, device="cuda") + 1
    assert (torch.ones(3, device="cuda") + 1).tolist() == [2, 2, 2]


def test_the_hosts_writes_can_be_told(fake):
    host = pinned().numpy()
    torch.from_numpy(host).to("cuda", non_blocking=True)
    host[:4] = 1
    fake.host_writes(host[2:4])
    fake.host_writes(np.zeros(3))
    assert len(fake.order.faults) == 1


def test_nothing_is_left_behind():
    with FakeCUDA():
        pass
    assert torch.cuda.Stream.__module__.startswith("torch.") and torch.ones(2).device.type == "cpu"
    assert "record_stream" not in vars(torch.Tensor)
