"""Takes images in another version's environment. It imports the standard library and that version alone.

Run by `budgetloader.bench.versions`: PYTHON versions_child.py MODULE FILE ENGINE IMAGE_SIZE SECONDS
For each line that comes it takes whole epochs for so many seconds, and answers with a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import time


def main() -> None:
    module, path, engine, size, seconds = sys.argv[1:]
    package = importlib.import_module(module)  # "loader" in version 0.1
    schedule = package.Schedule.full(epochs=10_000)
    options = {"batch_size": 64, "image_size": int(size), "engine": engine, "dtype": "uint8"}
    batches = package.BudgetLoader(path, schedule=schedule, crop="resized" if int(size) > 64 else "pad", **options)
    with batches:
        sum(len(labels) for _, labels in batches)  # compiles, allocates
        print(json.dumps({"version": getattr(package, "__version__", "unknown")}), flush=True)
        for _ in sys.stdin:
            began, cpu, images = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - began < float(seconds):
                images += sum(len(labels) for _, labels in batches)
            taken = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
            print(json.dumps({"images": images, **taken}), flush=True)


if __name__ == "__main__":
    main()
