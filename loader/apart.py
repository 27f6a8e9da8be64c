"""How this package starts modules of its own in other processes: never with the working directory in front.

`python -m MODULE` looks for MODULE, and for all that it imports, in the working directory first: a `json.py` that
lies in a trainer's folder would be run in its stead. Here this file is run by its path, by an isolated interpreter
(no working directory, no PYTHON… variables, no user folder), which then looks where the process that starts it
found its own packages, after the standard library.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import sysconfig

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in a process of its own, as `python -m` does."""
    return [sys.executable, "-I", os.path.abspath(__file__), json.dumps(_folders()), module, *arguments]


def _folders() -> list[str]:
    """Where packages may be: as for this process, without its working directory and its script's folder."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    unsafe = {os.getcwd(), *([os.path.dirname(os.path.abspath(main))] if main else [])}
    first = os.path.abspath(sys.path[0]) if sys.path and sys.path[0] else None
    kept = [os.path.abspath(folder) for folder in sys.path if folder and os.path.isdir(folder)]
    # Only the first entry is put there without being asked for; PYTHONPATH may name the same folder on purpose.
    if kept and kept[0] == first and first in unsafe:
        kept = kept[1:]
    return [_ROOT, *(folder for folder in kept if folder != _ROOT)]


def _main() -> None:
    folders, module = json.loads(sys.argv[1]), sys.argv[2]
    here = os.path.dirname(os.path.abspath(__file__))
    library = [folder for folder in sys.path if os.path.abspath(folder) != here]
    own = [folder for folder in library if _of_the_standard_library(folder)]
    rest = [folder for folder in (*folders, *library) if folder not in own]
    sys.path[:] = [*own, *dict.fromkeys(rest)]
    sys.argv[:] = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _of_the_standard_library(folder: str) -> bool:
    """Whether a folder has Python's own modules: others, such as a checkout's that is installed, stand behind."""
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    within = folder.endswith(".zip") or any(folder == path or folder.startswith(path + os.sep) for path in own)
    return within and "-packages" not in folder


if __name__ == "__main__":
    _main()
