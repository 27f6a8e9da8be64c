"""A trainer for the tests of the service: takes batches, and prints a hash of each as a line of JSON.

python tests/service_trainer.py '{"name": …, "schedule": …, …}'
"""

import hashlib
import json
import signal
import sys
import time
from pathlib import Path

import torch

from budgetloader import BudgetLoader, EngineError, Schedule, connect


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


def options_of(asked):
    return {
        "schedule": Schedule.parse(asked["schedule"]),
        "batch_size": asked.get("batch_size", 48),
        "image_size": asked.get("image_size", 24),
        "seed": asked.get("seed", 0),
        "dtype": asked.get("dtype", "uint8"),
        "on_corrupt": asked.get("on_corrupt", "raise"),
        "rank": asked.get("rank", 0),
        "world_size": asked.get("world_size", 1),
        "with_ids": True,
    }


def private(path, **asked):
    """The same hashes from a private loader."""
    with BudgetLoader(path, engine="native", crop="resized", **options_of(asked)) as batches:
        return list(hashes(batches))


def main():
    asked = json.loads(sys.argv[1])
    state, left = None, asked.get("reconnect", 0)
    kept = {} if "keep_every" in asked else None
    signal.signal(signal.SIGUSR1, lambda *_: asked.update(step_seconds=0))
    while True:
        try:
            batches = connect(asked["name"], crop="resized", label=asked.get("label", "test"), **options_of(asked))
            if state is not None:
                batches.load_state_dict(state)
            with batches:
                print(json.dumps({"connected": True}), flush=True)
                for line in hashes(batches, kept, asked.get("keep_every", 1), asked.get("scribble", False)):
                    print(json.dumps(line), flush=True)
                    state = batches.state_dict()
                    time.sleep(asked.get("step_seconds", 0))
                decoded = sum(s.samples_decoded for s in batches.stats)
            changed = [line for line, batch in (kept or {}).items() if digest(*batch) != line[2]]
            lent = "/plasma" in Path("/proc/self/maps").read_text()
            print(json.dumps({"finished": True, "decoded": decoded, "changed": changed, "lent": lent}), flush=True)
            return
        except EngineError as error:
            print(json.dumps({"error": str(error), "at": time.time()}), flush=True)
            if not left:
                raise SystemExit(1) from None
            left -= 1
            time.sleep(1)


if __name__ == "__main__":
    main()
