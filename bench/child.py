"""Measurements in processes of their own, which stay and take turns.

Importing one loader can change what another does (FFCV sets torch's threads), and settings such as
OMP_NUM_THREADS are read once per process: so what is compared gets a process each, and the parent asks
them in turn, so that the machine's drift hits all alike.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

_ANSWER = "answer "  # in front of an answer's line; libraries print to stdout, too


class Child:
    """A process that answers requests.

    Args:
        make: "module:function" of a function that is called once, in the process, with `arguments`, and returns
            the function that answers: keyword arguments in, something that JSON has out.
        name: for messages.
        arguments: what JSON has.
        environment: variables to set before anything is imported there.
    """

    def __init__(
        self,
        make: str,
        *,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        command = [sys.executable, "-m", "budgetloader.bench.child", make, json.dumps(dict(arguments or {}))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ask(self, **request: Any) -> Any:
        """The process's answer.

        Raises:
            RuntimeError: it ended; its message went to stderr.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended before it was asked; the status is read below
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                return json.loads(line[len(_ANSWER) :])
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}; see its message above")

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word; the bench says one
    module, _, function = sys.argv[1].partition(":")
    answer: Callable[..., Any] = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    for line in sys.stdin:
        print(_ANSWER + json.dumps(answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
