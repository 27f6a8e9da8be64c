"""Trainings in a process of their own that are killed in mid-epoch, and what the ones that resume them are given."""

import json
import signal
import subprocess
import sys

from conftest import ROOT

# Runs behind a script that defines `kinds`, `options`, `show`, `save` and `kill_at`: a loader of each kind takes a step
# at a time, what it gave is printed, and all states are saved.
_STEPS = """
def stream(loader):
    for _ in loader.epochs():
        yield from loader

with contextlib.ExitStack() as stack:
    loaders = {kind: stack.enter_context(BudgetLoader(at, **more, **options)) for kind, (at, more) in kinds.items()}
    if os.path.exists(save):
        for kind, state in json.load(open(save)).items():
            loaders[kind].load_state_dict(state)
    streams = {kind: stream(loader) for kind, loader in loaders.items()}
    for step in range(1000):
        found = {kind: next(stream, None) for kind, stream in streams.items()}
        shown = {kind: show(b) for kind, b in found.items() if b is not None}
        if not shown:
            break
        print(json.dumps(shown), flush=True)
        json.dump({kind: loader.state_dict() for kind, loader in loaders.items()}, open(save + ".new", "w"))
        os.replace(save + ".new", save)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def train(script, *arguments, save, kill_at):
    """What each kind gave, step by step, until the end or until the process kills itself after step `kill_at`."""
    command = [sys.executable, "-c", script + _STEPS, *arguments, save, kill_at]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == (0 if kill_at < 0 else -signal.SIGKILL), done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
