"""Images per second of the installed engines on a file."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from budgetloader import apart
from budgetloader.arguments import check_count
from budgetloader.errors import EngineError, LoaderError
from budgetloader.schedule import Schedule


@dataclass(frozen=True)
class Work:
    """What is measured: see `BudgetLoader`. `epochs` are counted, after one of warm-up, each of at most `batches`."""

    batch_size: int = 64
    image_size: int = 224
    dtype: str = "uint8"
    interpolation: str = "antialias"
    device: str = "cpu"
    epochs: int = 3
    batches: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "batches"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), what=name)


@dataclass(frozen=True)
class Rates:
    """Images per second of one engine, one figure per epoch."""

    engine: str
    images_per_second: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.images_per_second)

    def __str__(self) -> str:
        spread = max(self.images_per_second) - min(self.images_per_second)
        epochs = len(self.images_per_second)
        return f"{self.median:,.0f} images/s" + (f" (range {spread:,.0f}, {epochs} epochs)" if epochs > 1 else "")


def measure(file: str | Path, *, engine: str, work: Work) -> Rates:
    """The rates of an engine, in this process."""
    from budgetloader.loader import BudgetLoader
    from budgetloader.options import open_dataset

    dataset = open_dataset(file, verify=False, label_field=None)
    full = -(-len(dataset) // work.batch_size)
    ratio = Fraction(min(work.batches or full, full), full)
    rates = []
    with BudgetLoader(
        dataset,
        schedule=Schedule.flat(ratio, epochs=work.epochs + 1),
        batch_size=work.batch_size,
        image_size=work.image_size,
        engine=engine,
        crop="auto" if (dataset.heights == work.image_size).all() else "resized",  # which every engine has
        dtype=work.dtype,
        interpolation=work.interpolation,  # type: ignore[arg-type]
        device=work.device,
    ) as batches:
        for _ in range(work.epochs + 1):
            began = time.perf_counter()
            count = 0
            for _, labels in batches:
                count += len(labels)
            if count:
                int(labels[-1])  # on a GPU, the last batch has arrived then
            rates.append(count / (time.perf_counter() - began))
    return Rates(engine, rates[1:])


def measure_apart(file: str | Path, *, engine: str, work: Work) -> Rates:
    """The rates of an engine, in a process of its own: importing one can change what another does.

    Raises:
        EngineError: it failed; the message is its last line.
    """
    request = json.dumps({"file": str(file), "engine": engine, "work": asdict(work)})
    done = subprocess.run(apart.command("budgetloader.throughput", request), capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise EngineError(why[-1].removeprefix("error: "))
    return Rates(engine, json.loads(done.stdout.splitlines()[-1]))


def _main() -> int:
    request = json.loads(sys.argv[1])
    try:
        rates = measure(request["file"], engine=request["engine"], work=Work(**request["work"]))
    except LoaderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rates.images_per_second))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
