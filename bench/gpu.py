"""The engines and the trainers on a GPU: checked and measured by one command.

Claims: every engine gives on a GPU, under load, the batches that native gives on a CPU; cropped bytes make
loading faster, or halve what goes over the bus; with a loader that keeps up, a trainer runs as fast as on
batches from memory, and training time follows the corollaries to half a percentage point.

    python -m budgetloader.bench.gpu                               # everything, on an NVIDIA GPU, in about 8 minutes
    python -m budgetloader.bench.gpu --parts contract loader       # some of it
    python -m budgetloader.bench.gpu --engines dali mypackage.mymodule:MyEngine
    python -m budgetloader.bench.gpu --device cpu                  # without one: as far as it goes, and small

Each measurement has a process of its own: one that fails, crashes or hangs is a row that says so, and the
others go on; the command's status is 1 then. Parts for which no time is left are left out, and said; what commands
before this one have measured in the same folder, of the same code, is kept. How
time is measured: as in bench/throughput.py (every loader in turn, warm-up first; a measurement ends when the
device has finished) and bench/imagenet_mnv2.py (settings interleaved, epoch by epoch). The trainer's ceiling
is the same trainer on the synthetic engine, in turn with the loader.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader import apart
from budgetloader.bench.entry import parser_of

if TYPE_CHECKING:  # --help does not need it
    from rich.console import Console

PARTS = ("contract", "hardware", "loader", "trainer", "imagenet", "cifar")
ENGINES = ("native", "dali", "ffcv", "resident")
OTHERS = ("plain DALI", "torch DataLoader", "cropped decoding alone")
_MOST_PIXELS = 512  # height and width of the generated JPEGs
IMAGENET_IMAGES, IMAGENET_EPOCHS = 1_281_167, 150
_DEFAULTS: dict[str, tuple[Any, Any]] = {  # on a GPU, on a CPU
    "images": (8192, 192),
    "image_size": (224, 32),
    "batch_size": (256, 16),
    "width": (1.0, 0.25),
    "turns": (3, 1),
    "epochs": (6, 3),
    "extra_rounds": (10, 1),
    "cifar_epochs": (40, 3),
    "cifar_depth": (56, 20),
    "compile": (["off", "on"], ["off"]),
    "hardware_shares": ([0.0, 0.25, 0.5, 0.8, 1.0], [0.5]),
    "minutes": (7.5, 4.5),
}
_LEAST_SECONDS = 10  # that are left for a measurement to begin
_MOST_SECONDS = 120  # of one: one that hangs is not to take all that there are


class Bench:
    """The options, the data and the time that is left, for all parts."""

    def __init__(self, options: argparse.Namespace, say: Any) -> None:
        self.options, self.say, self.out = options, say, Path(options.out)
        self.beton = str(self.out / "data" / "train.beton")
        self.val = str(self.out / "data" / "val.beton")
        self.small = str(self.out / "small" / "val.beton")
        self._deadline = time.monotonic() + 60 * options.minutes

    @property
    def seconds_left(self) -> int:
        return int(self._deadline - time.monotonic())

    def start(self, part: str, name: str, **arguments: Any) -> Any:
        """A process for a part of `budgetloader.bench.gpu_parts`."""
        from budgetloader.bench.child import Child

        return Child(f"budgetloader.bench.gpu_parts:{part}_part", name=name, arguments=arguments)

    def ask(self, child: Any, *, most_seconds: int = _MOST_SECONDS) -> dict[str, Any]:
        """A process's answer, or {"error": why there is none}."""
        if self.seconds_left < _LEAST_SECONDS:
            return {"error": f"left out: the {self.options.minutes:g} minutes are over"}
        try:
            return child.ask(limit_seconds=min(self.seconds_left, most_seconds))
        except RuntimeError as error:
            return {"error": _ending(str(error))}

    def once(self, part: str, name: str, **arguments: Any) -> dict[str, Any]:
        with self.start(part, name, **arguments) as child:
            return self.ask(child)

    def bench(self, module: str, *arguments: Any) -> list[dict[str, Any]]:
        """The settings' rows of another bench; with a row that has an error where it failed or the time was over."""
        from budgetloader.bench.child import end

        if self.seconds_left < _LEAST_SECONDS:
            return [{"error": f"left out: the {self.options.minutes:g} minutes are over"}]
        results = Path(str(arguments[arguments.index("--out") + 1])) / "results.json"
        results.unlink(missing_ok=True)
        process, late = subprocess.Popen(apart.command(module, *map(str, arguments))), False
        try:
            process.wait(self.seconds_left)
        except subprocess.TimeoutExpired:
            late = True
            process.send_signal(signal.SIGINT)  # it writes down what it has
        finally:
            end(process)
        over = {"error": f"{module} took longer than the {self.options.minutes:g} minutes that there are"}
        if late and not results.exists():
            return [over]
        if process.returncode and not late:
            return [{"error": _ending(f"{module} ended with status {process.returncode}")}]
        rows = [{**row, **row["seeds"][0], "seeds": 1} for row in json.loads(results.read_text())["settings"]]
        if not late:
            return rows
        return [row for row in rows if len(row["epoch_records"]) > 1] + [over]  # an epoch alone is warm-up


def _ending(message: str) -> str:
    """A process's end in words."""
    found = re.search(r"(.*) ended with status -(\d+)", message)
    if not found:
        return message
    if int(found[2]) == signal.SIGALRM:
        return f"{found[1]} took too long, and was ended"
    return f"{found[1]} crashed: {signal.Signals(int(found[2])).name}"


def contracts(bench: Bench) -> list[dict[str, Any]]:
    rows = []
    for engine in _installed(bench.options.engines, bench.say):
        beton = bench.small if engine == "resident" else bench.val
        answer = bench.once("contract", engine, engine=engine, beton=beton, device=bench.options.device)
        rows.append({"engine": engine, **answer})
    return rows


def _installed(engines_: Sequence[str], say: Any) -> list[str]:
    """The engines that are installed, and those of somebody's own."""
    from budgetloader import engines

    kept = []
    for engine in engines_:
        if engine not in ENGINES or engines.installed(engine):
            kept.append(engine)
        else:
            say(f"{engine} is left out: it is not installed")
    return kept


def _has_nvimagecodec() -> bool:
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.nvimgcodec") is not None


def hardware(bench: Bench) -> list[dict[str, Any]]:
    from budgetloader.bench.gpu_parts import JPEGS

    if not _has_nvimagecodec():
        bench.say("nvImageCodec is not installed (it comes with DALI); the hardware is not asked")
        return []
    device = bench.options.device
    return [{"jpeg": kind, **bench.once("hardware", kind, jpeg=kind, beton=bench.val, device=device)} for kind in JPEGS]


def loaders(bench: Bench) -> dict[str, Any]:
    from budgetloader.bench.child import together
    from budgetloader.bench.gpu_parts import bytes_per_image
    from budgetloader.bench.throughput import importable
    from budgetloader.parallel import cores

    options = bench.options
    names = [engine for engine in _installed(options.engines, bench.say) if engine != "resident"]
    names += [name for name in OTHERS if importable(name)]
    if options.device != "cpu" and not _has_nvimagecodec():  # which decodes what is cropped there
        names = [name for name in names if name != "cropped decoding alone"]
    work = {
        "beton": bench.beton,
        "folder": str(bench.out / "data" / "jpegs" / "train"),
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "threads": cores(),
        "dtype": "float32" if options.device == "cpu" else "float16",
        "interpolation": "antialias",
        "device": options.device,
    }
    contenders: list[tuple[str, str, Any]] = [(name, name, None) for name in names]
    if "dali" in names:
        contenders += [(f"dali, {s:g} in hardware", "dali", {"hardware_share": s}) for s in options.hardware_shares]
        largest = {"preallocate_height": _MOST_PIXELS, "preallocate_width": _MOST_PIXELS}
        contenders.append(("dali, preallocated", "dali", largest))
    made = (
        bench.start("loader", shown, contender=name, work=work, tuning=tuning) for shown, name, tuning in contenders
    )
    with together(made) as children:
        rows = _in_turn(bench, children)
    return {"rates": rows, "bytes_per_image": bytes_per_image(bench.beton, image_size=options.image_size)}


def _in_turn(bench: Bench, children: list[Any]) -> list[dict[str, Any]]:
    """The children's rates; one that failed is not asked again. The first turn is warm-up."""
    rows: list[dict[str, Any]] = [{"contender": child.name, "turns": []} for child in children]
    for turn in range(bench.options.turns + 1):
        for child, row in zip(children, rows, strict=True):
            if "error" in row:
                continue
            answer = bench.ask(child)
            if "error" in answer and not (row["turns"] and "left out" in answer["error"]):
                row["error"] = answer["error"]
            elif turn and "error" not in answer:
                row["turns"].append(answer["images_per_second"])
        bench.say(f"loader: turn {turn} of {bench.options.turns}" + ("" if turn else " (warm-up)"))
    for row in rows:
        if row["turns"]:
            row["images_per_second"] = statistics.median(row["turns"])
    return rows


def trainers(bench: Bench) -> list[dict[str, Any]]:
    options = bench.options
    shape = {"batch_size": options.batch_size, "image_size": options.image_size, "width": options.width}
    shape |= {"beton": bench.beton, "device": options.device}
    return [{"compile": c, **bench.once("trainer", "trainer", compile=c, **shape)} for c in options.compile]


def imagenet(bench: Bench) -> list[dict[str, Any]]:
    """MobileNetV2's settings, interleaved, on the generated JPEGs."""
    options = bench.options
    rows = bench.bench(
        *("budgetloader.bench.imagenet_mnv2", "--settings", "full", "R1_0.8", "R1_0.618", "R2_2"),
        *("--data", bench.beton, "--epochs", options.epochs, "--batch-size", options.batch_size),
        *("--image-size", options.image_size, "--width", options.width, "--device", options.device),
        *("--boundary", "off", "--extra-rounds", options.extra_rounds, "--out", bench.out / "imagenet", "--fresh"),
    )
    timed = [row for row in rows if "error" not in row]
    if not timed:
        return rows
    full = timed[0]["epoch_records"]
    seconds = sum(r["full_batch_seconds"] for r in full[1:]) / sum(r["full_batches"] for r in full[1:])
    for row in timed:
        row["batch_seconds"] = seconds
        row["imagenet_hours"] = hours(row, batch_size=options.batch_size)
        del row["epoch_records"]
    return rows


def hours(row: dict[str, Any], *, batch_size: int) -> float:
    """Hours of ImageNet's 150 epochs by a setting, extrapolated from a full batch's time T_0."""
    from budgetloader import Schedule

    form = row["schedule"].partition("@")[0]
    schedule = Schedule.parse(form, epochs=IMAGENET_EPOCHS)
    return schedule.budget(IMAGENET_IMAGES, batch_size=batch_size).total * row["batch_seconds"] / 3600


def cifar(bench: Bench) -> list[dict[str, Any]]:
    """ResNet's settings, interleaved, with the resident engine: 60 batches of 24."""
    options = bench.options
    rows = bench.bench(
        *(
            "budgetloader.bench.cifar_resnet56",
            "--quick",
            "--settings",
            "full",
            "R1_0.8",
            "R1_0.618",
            "R2",
            "R2_1",
            "R3",
        ),
        *("--depth", options.cifar_depth, "--image-size", 32, "--engine", "resident", "--epochs", options.cifar_epochs),
        # Batches of 24 keep a GPU waiting for its next kernel to be launched, unless they are compiled.
        *("--seeds", 1, "--device", options.device, "--compile", "off" if options.device == "cpu" else "on"),
        *("--boundary", "off", "--extra-rounds", options.extra_rounds, "--out", bench.out / "cifar", "--fresh"),
    )
    for row in rows:
        row.pop("epoch_records", None)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("gpu", __doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1 and so on, or cpu to try the command without a GPU")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add(
        "--engines", nargs="+", default=list(ENGINES), help="to check, and to measure; also MODULE:FUNCTION of your own"
    )
    add("--images", type=int, help="JPEGs to generate (8,192; on a CPU 192)")
    add("--image-size", type=int, help="pixels (224; on a CPU 32)")
    add("--batch-size", type=int, help="(256; on a CPU 16)")
    add("--width", type=float, help="of MobileNetV2 (1; on a CPU 0.25)")
    add("--turns", type=int, help="of the loaders (3; on a CPU 1)")
    add("--epochs", type=int, help="of MobileNetV2, for each setting (6; on a CPU 3)")
    add("--cifar-epochs", type=int, help="of ResNet, for each setting (40; on a CPU 3)")
    add("--cifar-depth", type=int, help="layers of ResNet (56; on a CPU 20)")
    add("--extra-rounds", type=int, help="of timing alone, for both, where an interval is too wide (10; on a CPU 1)")
    add("--compile", nargs="+", choices=("on", "off"), help="of the trainer part (both; on a CPU off)")
    add("--hardware-shares", type=float, nargs="+", help="of the images, 0 … 1, for the JPEG hardware; dali has 0.65")
    add("--minutes", type=float, help="for all measurements (7.5; on a CPU 4.5)")
    add("--out", default="runs/gpu")
    options = parser.parse_args(arguments)
    for name, values in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.device == "cpu"])
    from budgetloader.bench.console import guarded

    return guarded(
        functools.partial(_main, options, arguments),
        interrupted=f"the parts that were finished are in {options.out}",
    )


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader import engines
    from budgetloader.bench import page
    from budgetloader.bench.console import bars
    from budgetloader.bench.gpu_report import errors, grids
    from budgetloader.bench.record import command, environment, write_json
    from budgetloader.doctor import version
    from budgetloader.errors import EngineError
    from budgetloader.prepare import prepare

    for engine in options.engines:
        if engine not in ENGINES and ":" not in engine:
            raise EngineError(f"--engines {engine}: give {', '.join(ENGINES)}, or MODULE:FUNCTION of your own")
    if options.device != "cpu":
        try:
            options.device = engines.check_device(options.device)
        except EngineError as error:
            raise EngineError(f"{error}; --device cpu tries the command") from None
    with bars(console) as progress:
        made: Any = {"evaluation": None, "seed": 0, "progress": progress}
        prepare(None, folder=Path(options.out) / "data", images=options.images, **made)
        prepare(None, folder=Path(options.out) / "small", images=1440, builtin="digits", image_size=32, **made)
    bench = Bench(options, console.print)  # its minutes begin here
    here = environment() | {"cuda": _driver(), "nvimagecodec": version("nvidia-nvimgcodec-cu13")}
    results = _earlier(bench.out / "results.json", here) | {"environment": here}
    results |= {"options": {**vars(options), "out": None}, "command": command("budgetloader.bench.gpu", arguments)}
    parts = {"contract": contracts, "hardware": hardware, "loader": loaders}
    parts |= {"trainer": trainers, "imagenet": imagenet, "cifar": cifar}  # type: ignore[dict-item]
    for part in options.parts:
        console.print(f"{part} …")
        results[part] = parts[part](bench)
        write_json(bench.out / "results.json", results)
    for grid in grids(results):
        console.print(grid.rich())
    page.write(
        bench.out / "report.html",
        title=f"Engines and trainers on {options.device}",
        claim="Every engine gives on a GPU the batches that native gives on a CPU, and keeps a trainer busy.",
        command=results["command"],
        environment=results["environment"],
        parts=grids(results),
    )
    for line in errors(results):
        console.print(line, soft_wrap=True)
    console.print(f"report.html and results.json: {bench.out}", soft_wrap=True)
    return 1 if errors(results) else 0


def _earlier(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """Parts that a command before this one has measured, of the same code on the same machine; by which command."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    if {**found["environment"], "date": ""} != {**json.loads(json.dumps(here)), "date": ""}:
        return {}
    commands = {**found.get("commands", {}), **dict.fromkeys(found["options"]["parts"], found["command"])}
    return {**{part: found[part] for part in PARTS if part in found}, "commands": commands}


def _driver() -> dict[str, Any] | None:
    """The GPU's driver and CUDA's version, as nvidia-smi has them."""
    import torch

    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"nvidia_smi": shown, "cuda": torch.version.cuda}


if __name__ == "__main__":
    sys.exit(main())
