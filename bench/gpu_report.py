"""What bench/gpu.py shows of its results."""

from __future__ import annotations

from typing import Any


def tables(results: dict[str, Any]) -> list[Any]:
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


def _table(title: str, *names: str) -> Any:
    from rich.table import Table

    view = Table(title=title)
    for name in names:
        view.add_column(name, no_wrap=True)
    return view


def _contract(rows: list[dict[str, Any]]) -> Any:
    view = _table("every batch, under load, against native on the CPU", "engine", "result", "decoded", "emitted")
    for row in rows:
        same = "failed" if "error" in row else f"same samples, pixels {row['pixel_difference']:.2f}/255 apart"
        view.add_row(row["engine"], same, str(row.get("decoded", "—")), str(row.get("emitted", "—")))
    return view


def _hardware(rows: list[dict[str, Any]]) -> Any:
    view = _table("one JPEG in nvImageCodec's decoder", "JPEG", "backend", "decodes", "images/s", "pixels apart")
    for row in rows:
        if row.get("decodes"):
            figures = ["yes", f"{row['images_per_second']:,.0f}", f"{row['pixel_difference']:.2f}/255"]
        else:
            figures = ["failed" if "error" in row else "no", "—", "—"]
        view.add_row(row["jpeg"], row.get("backend", "—"), *figures)
    return view


def _loader(part: dict[str, Any]) -> Any:
    view = _table("images/s, median over the turns", "loader", "images/s", "range")
    for row in part["rates"]:
        turns = row["turns"] or [0.0]
        rate = f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "failed"
        view.add_row(row["contender"], rate, f"{min(turns):,.0f} – {max(turns):,.0f}")
    sizes = part["bytes_per_image"]
    view.caption = "bytes over the bus per image: " + ", ".join(f"{k} {v:,.0f}" for k, v in sizes.items())
    return view


def _trainer(rows: list[dict[str, Any]]) -> Any:
    view = _table("MobileNetV2: loader + trainer", "compile", "engine", "images/s", "ceiling", "share", "verdict")
    for row in rows:
        if "error" in row:
            view.add_row(row["compile"], *["failed"] * 5)
            continue
        figures = (f"{row['images_per_second']:,.0f}", f"{row['ceiling']:,.0f}", f"{row['share']:.3f}")
        view.add_row(row["compile"], row["engine"], *figures, row["verdict"])
    return view


def _settings(rows: list[dict[str, Any]], network: str) -> Any:
    rows = [row for row in rows if "error" not in row]
    if not rows:
        return None
    names = ["setting", "measured", "corollary", "difference"]
    if "imagenet_hours" in rows[0]:
        names.append("hours on ImageNet (extrapolated)")
    view = _table(f"{network}: training time, of full training's", *names)
    for row in rows:
        figures = [f"{row['ratio_measured']:.4f}", f"{row['ratio_corollary']:.4f}", f"{row['difference_points']:+.2f}"]
        if "imagenet_hours" in row:
            figures.append(f"{row['imagenet_hours']:.1f}")
        view.add_row(row["setting"], *figures)
    return view


_TABLES: dict[str, Any] = {
    "contract": _contract,
    "hardware": _hardware,
    "loader": _loader,
    "trainer": _trainer,
    "imagenet": lambda rows: _settings(rows, "MobileNetV2"),
    "cifar": lambda rows: _settings(rows, "ResNet"),
}
