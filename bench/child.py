"""Run functions in processes of their own: once, or as servers that answer requests in turn.

Importing one loader can change what another does (FFCV sets torch's threads), and settings such as OMP_NUM_THREADS
are read once per process: so what is compared gets a process each, and the parent asks them in turn, so that the
machine's drift hits all alike. What is killed, or limited, or fed with hostile input needs a process, too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from budgetloader import apart

_ANSWER = "answer "  # in front of an answer's line; libraries print to stdout, too
_END_SECONDS = 20.0  # that a process has for its end once nobody asks it any more


def once(function: str, **arguments: Any) -> list[str]:
    """The command of a process that calls a function and ends with the exit status that it returns.

    Args:
        function: "module:function".
        arguments: values that JSON can represent.
    """
    return apart.command("budgetloader.bench.child", "once", function, json.dumps(arguments))


class Child:
    """A process that answers requests.

    Args:
        make: "module:function" of a function that is called once, in the process, with `arguments`, and returns
            the function that answers, or a context manager of it: keyword arguments in, something that JSON has out.
        name: for messages.
        arguments: values that JSON can represent.
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
        self._process = subprocess.Popen(
            apart.command("budgetloader.bench.child", "answering", make, json.dumps(dict(arguments or {}))),
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
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        """Ask without waiting; `answer` gives the answer. Several processes that are asked so work at the same time."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it ended before it was asked; `answer` says so
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the request that was sent first of those without one.

        Raises:
            RuntimeError: the process ended; its message went to stderr.
        """
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                return json.loads(line[len(_ANSWER) :])
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}; see its message above")

    def kill(self) -> None:
        """End it at once; `answer` then raises."""
        self._process.kill()

    def close(self) -> None:
        """End it once it has answered."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        end(self._process)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def end(process: subprocess.Popen, *, seconds: float = _END_SECONDS) -> None:
    """Wait for a process that is ending; one that takes too long is killed."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def together(children: Iterable[Child]) -> Iterator[list[Child]]:
    """Children that are all there at the same time, and closed in the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(child) for child in children]


def in_turns(children: Iterable[Child], *, turns: int, say: Callable[[str], object]) -> dict[str, list[Any]]:
    """What all children answer, by their names: they are asked one after the other, turn by turn.

    Args:
        children: closed in the end.
        turns: that count; there is one before, as warm-up.
        say: told of each turn.
    """
    with together(children) as asked:
        answers: dict[str, list[Any]] = {child.name: [] for child in asked}
        for turn in range(turns + 1):
            for child in asked:
                answer = child.ask()
                if turn:
                    answers[child.name].append(answer)
            say(f"turn {turn} of {turns}")
    return answers


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word; the bench says one
    mode, named, arguments = sys.argv[1:]
    module, _, name = named.partition(":")
    made = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    if mode == "once":
        return made
    with made if hasattr(made, "__enter__") else contextlib.nullcontext(made) as answer:
        for line in sys.stdin:
            print(_ANSWER + json.dumps(answer(**json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
