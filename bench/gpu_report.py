"""The tables of bench/gpu.py."""

from __future__ import annotations

from typing import Any

from budgetloader.bench.grid import Grid


def grids(results: dict[str, Any]) -> list[Grid]:
    """A table for each part."""
    views = [make(results[part]) for part, make in _TABLES.items() if results.get(part)]
    return [view for view in views if view is not None]


def errors(results: dict[str, Any]) -> list[str]:
    """A line for each measurement that failed."""
    found = []
    for part in _TABLES:
        rows = results.get(part) or []
        for row in rows["rates"] if isinstance(rows, dict) else rows:
            if "error" in row:
                name = next((row[key] for key in ("engine", "contender", "jpeg", "setting") if key in row), "")
                found.append(f"{part} {name}: {row['error']}".replace(" :", ":"))
    return found


def _contract(rows: list[dict[str, Any]]) -> Grid:
    cells = []
    for row in rows:
        same = "failed" if "error" in row else f"same samples, pixels {row['pixel_difference']:.2f}/255 apart"
        cells.append((row["engine"], same, str(row.get("decoded", "—")), str(row.get("emitted", "—"))))
    return Grid("every batch, under load, against native on the CPU", ("engine", "result", "decoded", "emitted"), cells)


def _hardware(rows: list[dict[str, Any]]) -> Grid:
    cells = []
    for row in rows:
        if row.get("decodes"):
            figures = ["yes", f"{row['images_per_second']:,.0f}", f"{row['pixel_difference']:.2f}/255"]
        else:
            figures = ["failed" if "error" in row else "no", "—", "—"]
        cells.append((row["jpeg"], row.get("backend", "—"), *figures))
    names = ("JPEG", "backend", "decodes", "images/s", "pixels apart")
    return Grid("one JPEG in nvImageCodec's decoder", names, cells)


def _loader(part: dict[str, Any]) -> Grid:
    cells = []
    for row in part["rates"]:
        turns = row["turns"] or [0.0]
        rate = f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "failed"
        cells.append((row["contender"], rate, f"{min(turns):,.0f} – {max(turns):,.0f}"))
    sizes = ", ".join(f"{kind} {count:,.0f}" for kind, count in part["bytes_per_image"].items())
    note = f"Medians over the turns. Bytes over the bus per image: {sizes}."
    return Grid("images per second", ("loader", "images/s", "range"), cells, note)


def _trainer(rows: list[dict[str, Any]]) -> Grid:
    cells = []
    for row in rows:
        figures = ["failed"] * 5
        if "error" not in row:
            rates = (f"{row['images_per_second']:,.0f}", f"{row['ceiling']:,.0f}", f"{row['share']:.3f}")
            figures = [row["engine"], *rates, row["verdict"]]
        cells.append((row["compile"], *figures))
    names = ("compile", "engine", "images/s", "ceiling", "share", "verdict")
    return Grid("MobileNetV2: loader and trainer", names, cells, "Ceiling: the same trainer on the synthetic engine.")


def _settings(rows: list[dict[str, Any]], network: str) -> Grid | None:
    from budgetloader.bench.report import ratio

    rows = [row for row in rows if "error" not in row]
    if not rows:
        return None
    names = ["setting", "measured (95 %)", "corollary", "difference"]
    if "imagenet_hours" in rows[0]:
        names.append("hours on ImageNet (extrapolated)")
    cells = []
    for row in rows:
        difference = f"{row['difference_points']:+.2f}" if row["conclusive"] else "—"
        figures = [ratio(row), f"{row['ratio_corollary']:.4f}", difference]
        if "imagenet_hours" in row:
            figures.append(f"{row['imagenet_hours']:.1f}")
        cells.append((row["setting"], *figures))
    return Grid(f"{network}: training time, as a share of full training's", names, cells)


_TABLES: dict[str, Any] = {
    "contract": _contract,
    "hardware": _hardware,
    "loader": _loader,
    "trainer": _trainer,
    "imagenet": lambda rows: _settings(rows, "MobileNetV2"),
    "cifar": lambda rows: _settings(rows, "ResNet"),
}
