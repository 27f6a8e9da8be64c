"""A trainer for the tests of the service, which prints a hash of each batch as a line of JSON.

python tests/service_trainer.py '{"name": …, "schedule": …, …}'
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from budgetloader import BudgetLoader, EngineError, Mixture, Schedule, connect


def digest(images, labels, ids):
    h = hashlib.sha256(images.contiguous().view(torch.uint8).numpy().tobytes())
    h.update(labels.numpy().tobytes() + ids.numpy().tobytes())
    return h.hexdigest()[:16]


def hashes(batches, kept=None, keep_every=1, scribble=False):
    """(epoch, step, hash) of every batch of the rest of the schedule.

    With `kept` it gets every `keep_every`-th batch; with `scribble` a batch is written over at once.
    """
    for epoch in range(batches.epoch, batches.schedule.epochs):
        batches.set_epoch(epoch)
        for images, labels, ids in batches:
            line = epoch, batches.step - 1, digest(images, labels, ids)
            if kept is not None and line[1] % keep_every == 0:
                kept[line] = images, labels, ids
            if scribble:
                images.fill_(7)
            yield line


def options_of(schedule, **options):
    """Keywords of a loader that is compared with another one."""
    defaults = {"batch_size": 48, "image_size": 24, "dtype": "uint8", "crop": "resized", "with_ids": True}
    return {**defaults, "schedule": Schedule.parse(schedule), **options}


def private(path, schedule, state=None, **options):
    """The hashes from a private loader, which goes on from a state."""
    with BudgetLoader(path, engine="native", **options_of(schedule, **options)) as batches:
        if state is not None:
            batches.load_state_dict(state)
        return list(hashes(batches))


def main():
    job = json.loads(sys.argv[1])
    pause = [job.pop("step_seconds", 0)]
    state, save = job.pop("state", None), job.pop("save", None)
    if "mixture" in job:
        job["mixture"] = Mixture(job["mixture"])
    signal.signal(signal.SIGUSR1, lambda *_: pause.__setitem__(0, 0))
    try:
        with connect(job.pop("name"), label="test", **options_of(**job)) as batches:
            print(json.dumps({"connected": True}), flush=True)
            if state is not None:
                batches.load_state_dict(state)
            for line in hashes(batches):
                if save is not None:
                    Path(save + ".new").write_text(json.dumps(batches.state_dict()))
                    os.replace(save + ".new", save)
                print(json.dumps(line), flush=True)
                time.sleep(pause[0])
        print(json.dumps({"finished": True}), flush=True)
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
