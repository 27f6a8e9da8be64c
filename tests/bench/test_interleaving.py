import queue
import threading
import types

import pytest

from budgetloader.bench.interleaving import Deadlock, Interleaving


def module():
    return types.SimpleNamespace(threading=threading, queue=queue)


def letters(seed):
    """What three threads that give way between their letters write."""
    run, m, written = Interleaving(seed, stay=0.0), module(), []
    with run.patched(m):

        def write(letter):
            for _ in range(4):
                written.append(letter)
                run.give_way()

        threads = [m.threading.Thread(target=write, args=(letter,)) for letter in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return "".join(written)


def test_a_seed_is_an_order_and_there_are_many():
    assert letters(3) == letters(3)
    assert len({letters(seed) for seed in range(20)}) > 10


def test_a_lock_is_held_by_one_thread():
    run, m, inside, most = Interleaving(0, stay=0.0), module(), [], []
    with run.patched(m):
        lock = m.threading.Lock()

        def enter():
            with lock:
                inside.append(1)
                run.give_way()
                most.append(len(inside))
                inside.pop()

        threads = [m.threading.Thread(target=enter) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1, 1, 1]


def test_a_timeout_passes_only_when_nobody_else_can_go_on():
    run, m = Interleaving(1, stay=0.0), module()
    with run.patched(m):
        box = m.queue.SimpleQueue()
        with pytest.raises(queue.Empty):
            box.get(timeout=1000)
        thread = m.threading.Thread(target=lambda: box.put(7))
        thread.start()
        assert box.get(timeout=0.001) == 7
        thread.join()
        assert not m.threading.Event().wait(timeout=5)


def test_threads_that_wait_for_each_other_are_named():
    run, m = Interleaving(2), module()
    with run.patched(m), pytest.raises(Deadlock, match=r"main, stuck wait for each other|stuck, main"):
        event = m.threading.Event()
        thread = m.threading.Thread(target=event.wait, name="stuck")
        thread.start()
        thread.join()
