"""The engines and the trainers on a GPU: checked and measured by one command.

Claims: every engine gives on a GPU the batches that native gives on a CPU; cropped bytes make loading
faster, or halve what is uploaded; with a loader that keeps up, a trainer runs as fast as on batches
from memory, and training time follows the corollaries to half a percentage point.

    python -m bench.gpu                               # everything, on an NVIDIA GPU
    python -m bench.gpu --parts contract loader       # some of it
    python -m bench.gpu --device cpu                  # without one: as far as it goes, and small

How time is measured: as in bench/throughput.py (every loader in a process of its own, in turn, warm-up
first; a measurement ends when the device has finished) and bench/imagenet_mnv2.py (settings interleaved,
epoch by epoch). The trainer's ceiling is the same trainer on the synthetic engine, in turn with the loader.
What is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the processes that measure need it not
    from rich.console import Console

PARTS = ("contract", "loader", "trainer", "imagenet", "cifar")
ENGINES = ("native", "dali", "ffcv", "resident")
CONTENDERS = ("native", "dali", "ffcv", "plain DALI", "torch DataLoader", "cropped decoding alone")
TOLERANCE = {"native": 1.5, "dali": 1.5, "ffcv": 1.5, "resident": 0.05}  # of 255; nvJPEG is not libjpeg-turbo
IMAGENET_IMAGES, IMAGENET_EPOCHS = 1_281_167, 150
_CHECKED_BATCHES = 4
_DEFAULTS: dict[str, tuple[Any, Any]] = {  # on a GPU, on a CPU
    "images": (20_000, 192),
    "image_size": (224, 64),
    "batch_size": (256, 16),
    "width": (1.0, 0.25),
    "turns": (5, 1),
    "epochs": (6, 3),
    "cifar_epochs": (120, 3),
    "compile": (["off", "on"], ["off"]),
}


def contract(engine: str, *, beton: str, device: str) -> dict[str, Any]:
    """One engine on the device against native on the CPU, through epochs of changing budgets, and the first again."""
    from loader import BudgetLoader, Schedule

    schedule = Schedule.of([1, 0.5, 0.25, 1])
    options: dict[str, Any] = {
        "schedule": schedule,
        "batch_size": 16,
        "image_size": 32 if engine == "resident" else 128,
        "seed": 3,
        "dtype": "uint8",
        "with_ids": True,
    }
    worst, counts = 0.0, []
    with (
        BudgetLoader(beton, engine=engine, device=device, **options) as mine,
        BudgetLoader(beton, engine="native", device="cpu", **options) as reference,
    ):
        for epoch in (0, 1, 2, 0):
            mine.set_epoch(epoch)
            reference.set_epoch(epoch)
            count = 0
            for number, ((images, labels, ids), (expected, wanted, numbers)) in enumerate(
                zip(mine, reference, strict=True)
            ):
                count += 1
                if labels.tolist() != wanted.tolist() or ids.tolist() != numbers.tolist():
                    raise RuntimeError(
                        f"{engine} on {device}: epoch {epoch}, step {number}: other samples than native's"
                    )
                if str(images.device.type) != device.partition(":")[0]:
                    raise RuntimeError(f"{engine}: images are on {images.device}, and {device} was asked for")
                if number < _CHECKED_BATCHES:
                    worst = max(worst, float((images.cpu().int() - expected.int()).abs().float().mean()))
            counts.append(count)
        decoded = sum(e.samples_decoded for e in mine.stats)
        emitted = sum(e.samples_emitted for e in mine.stats)
    budgets = schedule.budget(len(mine.dataset), batch_size=16).batches
    if counts != [budgets[e] for e in (0, 1, 2, 0)]:
        raise RuntimeError(f"{engine} on {device}: {counts} batches, and the budgets are {budgets}")
    if worst > TOLERANCE[engine]:
        raise RuntimeError(f"{engine} on {device}: pixels differ by {worst:.2f}/255 from native's on average")
    return {"engine": engine, "pixel_difference": worst, "decoded": decoded, "emitted": emitted}


def trainer(*, beton: str, device: str, batch_size: int, image_size: int, width: float, compile: str) -> dict[str, Any]:
    """MobileNetV2's images/s with the loader and on the synthetic engine, epochs in turn, the first not counted."""
    import dataclasses

    import torch

    from loader import BudgetLoader, Schedule
    from models import IMAGENET, Trainer, mobilenet_v2

    rounds = 4
    rates: dict[str, list[float]] = {"auto": [], "synthetic": []}
    loaders = {
        name: BudgetLoader(
            beton,
            schedule=Schedule.full(epochs=rounds),
            batch_size=batch_size,
            image_size=image_size,
            engine=name,
            device=device,
            dtype="float16" if device != "cpu" else "float32",
        )
        for name in rates
    }
    torch.manual_seed(0)
    classes = int(loaders["auto"].dataset.labels.max()) + 1
    recipe = dataclasses.replace(IMAGENET, learning_rate=0.01)
    network = Trainer(
        mobilenet_v2(classes=classes, width=width), recipe=recipe, epochs=rounds, device=device, compile=compile
    )
    for epoch in range(rounds):
        for name, batches in loaders.items():
            record = network.train_epoch(batches, epoch=epoch)
            if epoch:
                rates[name].append(record.images / record.train_seconds)
    verdict, engine = str(loaders["auto"].verdict()), loaders["auto"].engine
    for batches in loaders.values():
        batches.close()
    shares = [mine / ceiling for mine, ceiling in zip(rates["auto"], rates["synthetic"], strict=True)]
    return {
        "engine": engine,
        "compile": compile,
        "images_per_second": statistics.median(rates["auto"]),
        "ceiling": statistics.median(rates["synthetic"]),
        "share": statistics.median(shares),
        "verdict": verdict,
    }


def uploaded_bytes(beton: str, *, images: int = 2048) -> dict[str, float]:
    """Compressed bytes per image: of the whole files, and of what is cut out of them for a random resized crop."""
    from loader import Dataset, Schedule
    from loader.batch import Planner
    from loader.jpeg import Cropper

    dataset, cropper = Dataset(beton), Cropper()
    count = min(images, len(dataset))
    plan = Planner(dataset, schedule=Schedule.full(epochs=1), batch_size=count, seed=0).plan(0, 0)
    whole = cut = 0
    for sample, top, left, height, width, _ in plan.rows.tolist():
        data = dataset.jpeg(sample)
        whole += len(data)
        cut += len(cropper.crop(data, top=top, left=left, height=height, width=width)[0])
    return {"whole": whole / count, "cropped": cut / count}


def hours(row: dict[str, Any], *, batch_size: int) -> float:
    """What ImageNet's 150 epochs would take by a setting, extrapolated from a full batch's time T_0."""
    from loader import Schedule

    form = row["schedule"].partition("@")[0]
    schedule = Schedule.parse(form, epochs=IMAGENET_EPOCHS)
    return schedule.budget(IMAGENET_IMAGES, batch_size=batch_size).total * row["batch_seconds"] / 3600


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--child"]:
        request = json.loads(arguments[1])
        measured = contract(**request) if request.pop("part") == "contract" else trainer(**request)
        print("result", json.dumps(measured), flush=True)
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, or cpu to try the command without a GPU")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--images", type=int, help="JPEGs to generate (20,000; on a CPU 192)")
    add("--image-size", type=int, help="pixels (224; on a CPU 64)")
    add("--batch-size", type=int, help="(256; on a CPU 16)")
    add("--width", type=float, help="of MobileNetV2 (1; on a CPU 0.25)")
    add("--turns", type=int, help="of the loaders (5; on a CPU 1)")
    add("--epochs", type=int, help="of MobileNetV2, for each setting (6; on a CPU 3)")
    add("--cifar-epochs", type=int, help="of ResNet56, for each setting (120; on a CPU 3)")
    add("--compile", nargs="+", choices=("on", "off"), help="of the trainer part (both; on a CPU off)")
    add("--out", default="runs/gpu")
    options = parser.parse_args(arguments)
    for name, values in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.device == "cpu"])
    from bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted=f"the parts that were finished are in {options.out}")


def _main(options: argparse.Namespace, console: Console) -> int:
    import torch

    from bench.console import bars
    from bench.data import prepare
    from bench.record import environment, write_json
    from loader.errors import EngineError

    if options.device != "cpu" and not torch.cuda.is_available():
        raise EngineError(f"--device {options.device}: torch sees no GPU here; --device cpu tries the command")
    out = Path(options.out)
    with bars(console) as progress:
        prepare(None, evaluation=None, folder=out / "data", images=options.images, seed=0, progress=progress)
        prepare(
            None,
            evaluation=None,
            folder=out / "small",
            images=1440,
            seed=0,
            progress=progress,
            builtin="digits",
            image_size=32,
        )
    results: dict[str, Any] = {"environment": environment(), "options": {**vars(options), "out": None}}
    results["environment"]["cuda"] = _driver()
    parts = {"contract": _contracts, "loader": _loaders, "trainer": _trainers, "imagenet": _imagenet, "cifar": _cifar}
    for part in options.parts:
        console.print(f"{part} …")
        results[part] = parts[part](options, out, console.print)
        write_json(out / "results.json", results)
    for view in _tables(results):
        console.print(view)
    console.print(f"results.json: {out}", soft_wrap=True)
    failed = [row for row in results.get("contract", []) if "error" in row]
    return 1 if failed else 0


def _driver() -> dict[str, Any] | None:
    """The GPU's driver and CUDA's version, as nvidia-smi has them."""
    import torch

    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"nvidia_smi": shown, "cuda": torch.version.cuda}


def _child(**request: Any) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "bench.gpu", "--child", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("result "):
            return json.loads(line[7:])
    why = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
    raise RuntimeError(why[-1])


def _contracts(options: argparse.Namespace, out: Path, say: Any) -> list[dict[str, Any]]:
    from loader import engines

    rows = []
    for engine in ENGINES:
        if not engines.installed(engine):
            say(f"{engine} is left out: it is not installed")
            continue
        beton = out / ("small" if engine == "resident" else "data") / "val.beton"
        try:
            rows.append(_child(part="contract", engine=engine, beton=str(beton), device=options.device))
        except RuntimeError as error:
            rows.append({"engine": engine, "error": str(error)})
    return rows


def _loaders(options: argparse.Namespace, out: Path, say: Any) -> dict[str, Any]:
    from bench.contenders import NEEDS, Work
    from bench.throughput import rates, there
    from loader.parallel import cores

    names = [name for name in CONTENDERS if there(name)]
    for name in set(CONTENDERS) - set(names):
        say(f"{name} is left out: {NEEDS[name]} is not installed")
    beton, folder = out / "data" / "train.beton", out / "data" / "jpegs" / "train"
    sizes = {"batch_size": options.batch_size, "image_size": options.image_size, "threads": cores()}
    rows = []
    for dtype in ("uint8", "float16"):
        kept = [name for name in names if dtype == "uint8" or name != "cropped decoding alone"]
        works = {
            name: [
                Work(str(beton), str(folder), **sizes, dtype=dtype, interpolation="antialias", device=options.device)
            ]
            for name in kept
        }
        rows += rates(works, turns=options.turns, say=say)
    return {"rates": rows, "bytes_per_image": uploaded_bytes(str(beton))}


def _trainers(options: argparse.Namespace, out: Path, say: Any) -> list[dict[str, Any]]:
    shape = {"batch_size": options.batch_size, "image_size": options.image_size, "width": options.width}
    beton = str(out / "data" / "train.beton")
    return [_child(part="trainer", beton=beton, device=options.device, compile=c, **shape) for c in options.compile]


def _imagenet(options: argparse.Namespace, out: Path, say: Any) -> list[dict[str, Any]]:
    """MobileNetV2's settings, interleaved, on the generated JPEGs."""
    rows = _bench(
        *("bench.imagenet_mnv2", "--settings", "full", "R1_0.8", "R1_0.618", "R2_2"),
        *("--data", out / "data" / "train.beton", "--epochs", options.epochs, "--batch-size", options.batch_size),
        *("--image-size", options.image_size, "--width", options.width, "--device", options.device),
        *("--out", out / "imagenet", "--fresh"),
    )
    full = rows[0]["epoch_records"]
    seconds = sum(r["full_batch_seconds"] for r in full[1:]) / sum(r["full_batches"] for r in full[1:])
    for row in rows:
        row["batch_seconds"] = seconds
        row["imagenet_hours"] = hours(row, batch_size=options.batch_size)
        del row["epoch_records"]
    return rows


def _cifar(options: argparse.Namespace, out: Path, say: Any) -> list[dict[str, Any]]:
    """ResNet56's settings, interleaved, with the resident engine: 60 batches of 24."""
    rows = _bench(
        *("bench.cifar_resnet56", "--quick", "--settings", "full", "R1_0.8", "R1_0.618", "R2", "R2_1", "R3"),
        *("--depth", 56, "--image-size", 32, "--engine", "resident", "--epochs", options.cifar_epochs),
        # Batches of 24 keep a GPU waiting for its next kernel to be launched, unless they are compiled.
        *("--seeds", 1, "--device", options.device, "--compile", "off" if options.device == "cpu" else "on"),
        *("--out", out / "cifar", "--fresh"),
    )
    for row in rows:
        del row["epoch_records"]
    return rows


def _bench(module: str, *arguments: Any) -> list[dict[str, Any]]:
    """The settings' rows of another bench."""
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)
    folder = Path(str(arguments[arguments.index("--out") + 1]))
    rows = json.loads((folder / "results.json").read_text())["settings"]
    return [{**row, **row["seeds"][0], "seeds": 1} for row in rows]


def _tables(results: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    def table(title: str, *names: str) -> Table:
        view = Table(title=title)
        for name in names:
            view.add_column(name, no_wrap=True)
        views.append(view)
        return view

    views: list[Any] = []
    if "contract" in results:
        view = table("against native on the CPU", "engine", "result", "decoded", "emitted")
        for row in results["contract"]:
            said = row.get("error") or f"same samples, pixels {row['pixel_difference']:.2f}/255 apart"
            view.add_row(row["engine"], said, str(row.get("decoded", "—")), str(row.get("emitted", "—")))
    if "loader" in results:
        view = table("images/s, median (interquartile range)", "loader", "dtype", "images/s")
        for row in results["loader"]["rates"]:
            shown = f"{row['images_per_second']:,.0f} ({row['spread']:,.0f})"
            view.add_row(row["contender"], row["dtype"] if "alone" not in row["contender"] else "—", shown)
        sizes = results["loader"]["bytes_per_image"]
        view.caption = (
            f"bytes per image: {sizes['whole']:,.0f} whole, {sizes['cropped']:,.0f} cropped "
            f"({sizes['cropped'] / sizes['whole']:.2f})"
        )
    if "trainer" in results:
        view = table("MobileNetV2: loader + trainer", "engine", "compile", "images/s", "ceiling", "share", "verdict")
        for row in results["trainer"]:
            view.add_row(
                row["engine"],
                row["compile"],
                f"{row['images_per_second']:,.0f}",
                f"{row['ceiling']:,.0f}",
                f"{row['share']:.3f}",
                row["verdict"],
            )
    for part, network in (("imagenet", "MobileNetV2"), ("cifar", "ResNet56")):
        if part in results:
            names = ("setting", "measured", "corollary", "difference", "hours on ImageNet (extrapolated)")
            view = table(f"{network}: training time, of full training's", *names[: 5 if part == "imagenet" else 4])
            for row in results[part]:
                figures = [f"{row['ratio_measured']:.4f}", f"{row['ratio_corollary']:.4f}"]
                figures.append(f"{row['difference_points']:+.2f}")
                if part == "imagenet":
                    figures.append(f"{row['imagenet_hours']:.1f}")
                view.add_row(row["setting"], *figures)
    return views


if __name__ == "__main__":
    sys.exit(main())
