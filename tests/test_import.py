import subprocess
import sys

import pytest


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_loader_loads_neither_torch_nor_an_engine():
    heavy = {"torch", "numba", "cv2", "simplejpeg", "PIL", "rich", "ffcv", "nvidia.dali", "ray"}
    assert not imported("import loader") & heavy
    assert not imported("import loader; loader.Schedule.paper('R3', epochs=120); loader.theory") & heavy


def test_the_test_above_can_fail():
    assert {"torch", "numba", "simplejpeg"} <= imported("import loader.engines.native")


def test_models_do_not_know_the_loader():
    assert not {m for m in imported("import models") if m.split(".")[0] == "loader"}


def test_unknown_names_are_refused():
    import loader

    with pytest.raises(AttributeError, match="Warp"):
        _ = loader.Warp
    assert set(loader.__all__) <= set(dir(loader))
