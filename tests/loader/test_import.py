import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import budgetloader

LAYERS = (  # each imports from its own line or those above it
    {"apart", "errors", "limits", "parallel", "paths", "pickles", "pillow", "rng", "runs", "stats"},
    {"arguments", "console"},
    {"sizes"},
    {"budget"},
    {"schedule"},
    {"cursor", "forecast", "shard", "theory"},
    {
        "beton",
        "checksums",
        "columns",
        "fields",
        "file_columns",
        "geometry",
        "jpeg",
        "jpeg_tables",
        "order",
        "resize",
        "spatial",
        "windows",
    },
    {"block_order"},
    {"selections", "transforms"},
    {"dataset", "custom_source", "image_folder", "tars", "plans"},
    {"storage"},
    {"joined"},
    {"shard_list"},
    {"batch", "conditions", "views"},
    {"convert", "engines", "generate", "verify"},
    {"feed", "options", "pictures", "targets"},
    {"live_selection"},
    {"loader", "prepare", "sampler"},
    {"service", "noise", "throughput"},
    {"doctor", "training"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
INSIDE = {  # the same within a folder: its parts first, and what is made of them last
    "convert": (
        {"colour", "idx", "npz", "raw_share", "tables"},
        {"arrays"},
        {"sources"},
        {"recoding"},
        {"encoding", "labelling", "packed", "scaled_targets", "streamed"},
        {"encoding_processes", "other_sources", "resuming"},
        {"converting"},
        {"appending", "sharding"},
        {"__init__"},
    ),
    "storage": (
        {"address", "folder", "mirror", "oracle", "pool", "pools", "ranges", "traffic", "windows"},
        {"client", "ledger", "upload"},
        {"cost", "index", "shared"},
        {"source"},
        {"disk"},
        {"ahead", "costs", "runs"},
        {"dataset"},
        {"__init__"},
    ),
    "selections": (
        {"agreement", "filtered", "mixture", "packing", "subset", "weighted"},
        {"picks", "scores"},
        {"infobatch"},
        {"__init__"},
    ),
    "transforms": ({"draws", "keys", "rows"}, {"adapters"}, {"chain"}, {"__init__"}),
    "engines": (
        {"laps", "threads", "turbojpeg"},
        {"base", "channels"},
        {"base_direct", "base_threaded", "buffers", "normalize"},
        {"stage_call", "stage_driver", "upload"},
        {"row_kernels"},
        {"rows"},
        {"rendering", "stage_places"},
        {"render_threads", "stage"},
        {"dali", "ffcv", "native", "resident", "synthetic"},
        {"__init__"},
    ),
}
ENGINES = {"dali", "ffcv", "native", "resident", "synthetic"}
TRAINING = ("training.py",)  # what brings the loader and models together
OWNERS = {"obstore": "storage/", "nvidia": "engines/dali.py", "ffcv": "engines/ffcv.py", "ray": "service/"}


def imports(source: str) -> set[str]:
    """The modules that a source imports, those for the type checker alone left out."""
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def layer(layers, part: str) -> int | None:
    return next((number for number, names in enumerate(layers) if part in names), None)


def above(layers, here: str, name: str) -> bool:
    """Whether a part is above the one that imports it; parts that no layer names are nowhere."""
    own, other = layer(layers, here), layer(layers, name)
    return own is not None and other is not None and other > own


def violations(path: str, source: str) -> list[str]:
    """What a file imports that it must not."""
    here, *within = path.removesuffix(".py").split("/")
    wrong = []
    for name in sorted(imports(source)):
        top, *inner = name.split(".")
        if top in OWNERS and not path.startswith(OWNERS[top]):
            wrong.append(f"{path} imports {top}")
        if top != "budgetloader" or here == "__init__":
            continue
        if inner[:1] == [here]:
            known = set().union(*INSIDE.get(here, ()))
            part = inner[1] if inner[1:] and inner[1] in known else "__init__"  # a name that the folder gives
            if known and (above(INSIDE[here], within[0], part) or {within[0], part} <= ENGINES):
                wrong.append(f"{path} imports {name}, which is above or beside it")
        elif path in TRAINING and inner[:1] == ["models"]:
            continue
        elif here == "models" or inner[:1] in (["models"], ["bench"]):
            wrong.append(f"{path} imports {name}")
        elif above(LAYERS, here, inner[0]):
            wrong.append(f"{path} imports {name}, which is above it")
        if any(part.startswith("_") and part.strip("_") for part in inner[1:]):
            wrong.append(f"{path} imports {name}, which is private")
    return wrong


def graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports: "engines.base" and so on."""
    modules = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): path for path in files}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        edges[module] = set()
        for name in imports(files[path]):
            if name.startswith("budgetloader."):
                name = name.removeprefix("budgetloader.")
                while name and name not in modules:
                    name = name.rpartition(".")[0]
                edges[module] |= {name} - {"", module}
    return edges


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Modules that import each other, by however many ways round."""
    found: list[set[str]] = []
    edges = {module: set(others) for module, others in edges.items()}
    while True:
        try:
            graphlib.TopologicalSorter(edges).prepare()
            return found
        except graphlib.CycleError as error:
            circle = error.args[1]
            found.append(set(circle))
            edges[circle[1]].discard(circle[0])


def found(root: Path) -> list[Path]:
    """The package's files; in a checkout, models/ and bench/ are links."""
    folders = (root, *(path for path in root.iterdir() if path.is_dir()))
    return [path for folder in folders for path in folder.glob("*.py")]


def sources() -> dict[str, str]:
    root = Path(budgetloader.__file__).parent  # a checkout, or where it is installed
    return {p.relative_to(root).as_posix(): p.read_text() for p in found(root) if p.parent.name != "bench"}


def test_the_layers_import_in_one_direction_also_within_a_folder():
    files = sources()
    assert len(files) > 40 and "models/fit.py" in files and "service/server.py" in files
    assert [wrong for path, source in files.items() for wrong in violations(path, source)] == []


@pytest.mark.parametrize("folder", INSIDE)
def test_every_file_of_a_folder_has_its_layer(folder):
    inside = {path.removesuffix(".py").split("/")[1] for path in sources() if path.startswith(f"{folder}/")}
    assert inside == set().union(*INSIDE[folder])


def test_no_modules_import_each_other():
    edges = graph(sources())
    assert "engines.base" in edges["engines.native"] and "service.wire" in edges["service.bridge"]
    assert circles(edges) == []


def test_the_test_of_the_circles_can_fail():
    files = {"a.py": "from budgetloader.b.c import x", "b/c.py": "import budgetloader.d", "d.py": ""}
    assert circles(graph(files)) == []
    files["d.py"] = "def f():\n    from budgetloader import a"
    assert circles(graph(files)) == [{"a", "b.c", "d"}]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("order.py", "from budgetloader.loader import BudgetLoader"),
        ("engines/native.py", "def f():\n    from budgetloader import service"),
        ("engines/buffers.py", "from budgetloader.engines.upload import uploader"),
        ("engines/upload.py", "from budgetloader.engines import choose"),
        ("engines/resident.py", "from budgetloader.engines.native import NativeEngine"),
        ("order.py", "from budgetloader.schedule import _text"),
        ("models/fit.py", "import budgetloader"),
        ("loader.py", "from budgetloader.bench import job"),
        ("loader.py", "from budgetloader.models import fit"),
        ("training.py", "from budgetloader.bench import job"),
        ("engines/native.py", "import nvidia.dali"),
        ("loader.py", "import ray"),
    ],
)
def test_the_test_of_the_layers_can_fail(path, source):
    assert len(violations(path, source)) == 1


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_loader_loads_neither_torch_nor_an_engine():
    heavy = {"torch", "numba", "cv2", "simplejpeg", "PIL", "rich", "ffcv", "nvidia.dali", "ray"}
    assert not imported("import budgetloader") & heavy
    assert (
        not imported("import budgetloader; budgetloader.Schedule.paper('R3', epochs=120); budgetloader.theory") & heavy
    )


@pytest.mark.slow
def test_the_test_above_can_fail():
    assert {"torch", "numba", "simplejpeg"} <= imported("import budgetloader.engines.native")


def test_a_services_worker_decodes_without_torch(beton):
    """A worker starts anew after each fault, and importing torch would be most of its start."""
    decoding = f"""
from budgetloader.service.blocks import Key, Reading, Spec
from budgetloader.service.worker import decode_block
reading = Reading(({str(beton)!r},), False, 1 << 26)
key = Key(Spec(reading.open().fingerprint, 32, "antialias", "resized", 0, "raise"), 0, 0)
assert decode_block(reading, key, 0, 8).images.std() > 9
"""
    assert "torch" not in imported(decoding)


def test_a_process_of_a_conversion_encodes_without_numba(folder):
    """Loading numba would be most of the start of each process."""
    encoding = f"""
from budgetloader.convert.converting import Settings
from budgetloader.convert.encoding import Encoder
from budgetloader.convert import encoding_processes
from budgetloader.convert.sources import image_folder
source = image_folder({str(folder)!r})
assert Encoder(source, Settings())(0).data
"""
    assert not imported(encoding) & {"torch", "numba"}


def import_seconds(module: str, runs: int = 3) -> float:
    """The least of some fresh interpreters' times for an import, in processor time."""
    script = f"import time; began = time.process_time(); import {module}; print(time.process_time() - began)"
    command = [sys.executable, "-c", script]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(runs))


def test_import_loader_takes_under_0_3_seconds():
    assert import_seconds("budgetloader") < 0.3


@pytest.mark.slow
def test_the_test_of_the_seconds_can_fail():
    assert import_seconds("torch", runs=1) > 0.3


def test_unknown_names_are_refused():
    import budgetloader

    with pytest.raises(AttributeError, match="Warp"):
        _ = budgetloader.Warp
    assert set(budgetloader.__all__) <= set(dir(budgetloader))


def test_help_of_the_command_line_loads_nothing_heavy():
    heavy = {"torch", "numpy", "numba", "simplejpeg", "PIL", "rich", "ray", "budgetloader.models"}
    help_ = "from budgetloader import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass"
    loaded = imported(help_)
    assert "budgetloader.commands.train" in loaded and not loaded & heavy
