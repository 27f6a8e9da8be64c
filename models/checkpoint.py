"""Checkpoint files: written atomically, and loaded without running code that they may hold."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message says why."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one before stays whole until this one is on disk.

    Args:
        path: the file.
        state: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        CheckpointError: it could not be written (no space, no permission).
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        held = f"; {path} still holds the one before" if path.exists() else ""
        raise CheckpointError(f"checkpoint {path} cannot be written ({_first_line(error)}){held}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        message = f"checkpoint {path} cannot be read ({_first_line(error)}); delete it to start over"
        raise CheckpointError(message) from None


def random_state(device: str | torch.device = "cpu") -> dict[str, Any]:
    """The states of Python's and torch's generators, and of the device's where that is a GPU."""
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: str | torch.device = "cpu") -> None:
    """Go back to where `random_state` was taken, perhaps on another device."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
