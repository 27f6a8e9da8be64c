import gc
import threading

import torch

from budgetloader import Schedule
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool
from budgetloader.engines.native import NativeEngine
from budgetloader.plans import Planner, stream


def job(dataset, **output):
    planner = Planner(dataset, schedule=Schedule.full(epochs=1), batch_size=8, seed=5)
    return planner, Job(
        dataset=dataset,
        output=Output(image_size=16, **output),
        batch_size=8,
        workers=2,
        capacity=2,
        on_corrupt="raise",
        replacement=planner.replacement,
    )


def test_a_buffer_returns_when_its_last_tensor_is_gone():
    pool = BufferPool(Output(image_size=4), 2)
    images = pool.tensor(pool.take(2))
    address, part = images.data_ptr(), images[0, 0]
    del images
    gc.collect()
    assert not pool.spare  # a part of it is still in use
    del part
    gc.collect()
    assert pool.spare == 1
    assert pool.tensor(pool.take(2)).data_ptr() == address


def test_a_training_loop_goes_round_in_few_buffers(dataset):
    planner, j = job(dataset)
    engine = NativeEngine(j)
    addresses = set()
    for plan in stream(planner, epoch=0, step=0):
        engine.submit(plan)
        batch = engine.get()
        addresses.add(batch.images.data_ptr())
    engine.close()
    assert len(addresses) <= 3


def test_forgotten_engines_threads_end(dataset):
    _, j = job(dataset)
    engine = NativeEngine(j)
    threads = engine._threads
    assert all(t in threading.enumerate() for t in threads)
    del engine
    gc.collect()
    assert not any(t.is_alive() for t in threads)


def test_threads_of_torch_are_left_alone(dataset):
    before = torch.get_num_threads()
    NativeEngine(job(dataset)[1]).close()
    assert torch.get_num_threads() == before
