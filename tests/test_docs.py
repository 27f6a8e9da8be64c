"""The documentation: its site builds and is whole, its code runs, and what it tells a newcomer to do works."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from conftest import ROOT
from pages import NAMES, blocks
from torch.utils.data import DataLoader

import budgetloader.engines

CODE = [name for name, path in NAMES.items() if any(block.kind == "python" for block in blocks(path))]
SHRUNK = {
    "256": "8",
    "224": "32",
    "64": "32",
    "epochs=90": "epochs=3",
    "epochs=10": "epochs=3",
}  # so that 70 images are enough, and seconds

# Files, which their own tests run.
ELSEWHERE = ("train.py", "loader/engines/toy.py", "loader/engines/__init__.py", "tests/loader/test_engines.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory, folder, beton) -> Path:
    """Where the pages' code runs: with the files that they speak of."""
    place = tmp_path_factory.mktemp("docs")
    (place / "images").mkdir()
    for part in ("train", "val"):
        (place / "images" / part).symlink_to(folder)
        shutil.copy(beton, place / f"{part}.beton")
    return place


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where the machine is busy
    yield
    torch.set_num_threads(threads)


def ready(code: str) -> str:
    for large, small in SHRUNK.items():
        code = re.sub(rf"\b{large}\b", small, code)
    return code


def run(code: str, names: dict, *, where: str) -> None:
    exec(compile(ready(code), where, "exec"), names)


@pytest.mark.parametrize("name", CODE)
def test_every_block_of_python_runs(name, inside):
    """In the order of the page, in one namespace. What an example's file says is run by the examples' tests."""
    names = {"__name__": "page", "train_step": lambda images, labels: None}
    for block in blocks(NAMES[name]):
        if block.kind == "python" and block.title not in ELSEWHERE:
            run("\n" * (block.line - 1) + block.text, names, where=str(NAMES[name]))


def test_the_test_of_the_blocks_can_fail(inside):
    with pytest.raises(budgetloader.LoaderError):
        run('import budgetloader; budgetloader.Dataset("missing.beton")', {}, where="here")


def test_blocks_that_are_not_run_call_what_there_is():
    """Marked py instead of python: what needs a service that runs."""
    found = [(name, block) for name, path in NAMES.items() for block in blocks(path) if block.kind == "py"]
    assert {name for name, _ in found} == {"docs/service.md"}
    calls = [node for _, block in found for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)]
    known = {f"budgetloader.{name}": getattr(budgetloader, name) for name in budgetloader.__all__}
    known["budgetloader.Schedule.parse"] = budgetloader.Schedule.parse
    checked = [(known[ast.unparse(node.func)], node) for node in calls if ast.unparse(node.func) in known]
    for called, node in checked:
        inspect.signature(called).bind(*node.args, **{keyword.arg: None for keyword in node.keywords})
    assert len(checked) >= 2


def test_every_keyword_of_dataloader_in_the_table_is_known_or_refused_with_advice(place):
    table = NAMES["docs/coming-from/dataloader.md"].read_text().partition("## ImageFolder")[0]
    keywords = {word for row in re.findall(r"^\| (`.*?) \|", table, re.M) for word in re.findall(r"`(\w+)", row)}
    own = set(inspect.signature(budgetloader.BudgetLoader).parameters)
    assert {"num_workers", "shuffle", "drop_last", "pin_memory", "collate_fn"} <= keywords
    assert set(inspect.signature(DataLoader).parameters) - {"dataset"} <= keywords
    for word in keywords - own:
        with pytest.raises(budgetloader.LoaderError, match=word) as caught:
            budgetloader.BudgetLoader(place / "train.beton", batch_size=8, image_size=32, **{word: 1})
        assert len(str(caught.value)) > len(word) + 30


# What a newcomer does


def patched(before: str, diff: str) -> str:
    """The text after a diff of all its lines."""
    rest, after = iter(before.splitlines()), []
    for line in diff.splitlines():
        kind, text = line[:1] or " ", line[1:]
        if kind in " -":
            assert next(rest) == text, f"the diff's line {line!r} is not the file's"
        if kind in " +":
            after.append(text)
    assert list(rest) == [], "the diff ends before the file"
    return "\n".join(after) + "\n"


def epochs(code: str, capsys) -> list[str]:
    """What a trainer prints of its epochs."""
    capsys.readouterr()
    run(code, {"__name__": "__main__"}, where="train.py")
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


def test_a_trainer_of_ones_own_gets_the_loader_by_the_guides_diff(inside, capsys):
    """Who reads the front page and this guide has no more to go on than the two blocks."""
    found = {block.kind: block.text for block in blocks(NAMES["docs/guides/pytorch.md"]) if block.title == "train.py"}
    after = patched(found["python"], found["diff"])
    assert "DataLoader(" in found["python"] and "DataLoader" not in after
    assert epochs(found["python"], capsys) == [f"epoch {epoch}: 5 batches" for epoch in range(3)]
    assert epochs(after, capsys) == [f"epoch {epoch}: 3 batches" for epoch in range(3)]  # ⌊0.618·5⌋


def test_the_contract_takes_a_new_engine_by_one_line(tmp_path):
    """As CONTRIBUTING says: the engine's file, its line in the table of names, its line in the test."""
    found = {block.title: block.text for block in blocks(NAMES["CONTRIBUTING.md"]) if block.title}
    assert found["loader/engines/toy.py"] == (ROOT / "examples" / "toy_engine.py").read_text()
    table = (ROOT / "loader" / "engines" / "__init__.py").read_text()
    contract = next((ROOT / "tests").rglob("test_engines.py")).read_text()
    assert table.count("_ENGINES = {") == contract.count("TOLERANCE = {") == 1
    (tmp_path / "toy.py").write_text(found["loader/engines/toy.py"])
    (tmp_path / "plugin.py").write_text(
        "from budgetloader import engines\n"
        f"engines.__path__.append({str(tmp_path)!r})\n"
        f"engines._ENGINES |= eval({'{' + found['loader/engines/__init__.py'].strip() + '}'!r}, vars(engines))\n"
        "engines.NAMES += ('toy',)\n"
    )
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    line = found["tests/loader/test_engines.py"].strip()
    (tmp_path / "test_engines.py").write_text(contract.replace("TOLERANCE = {", f"TOLERANCE = {{{line} "))
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-v"]
    done = subprocess.run(
        [*command, "-p", "plugin", "-p", "no:cacheprovider", "-k", "toy", str(tmp_path / "test_engines.py")],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}:{tmp_path}", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20 and "skipped" not in done.stdout


# The site


class Page(HTMLParser):
    """What a page leads to, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(found["href"])
        elif found.get("src"):
            self.loaded.append(found["src"])
        if "mermaid" in (found.get("class") or ""):
            self.loaded.append("https://mermaid")  # whose script comes from another host


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    return site


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    found = {path: Page(path) for path in site.rglob("*.html")}
    assert len(found) > 30
    return found


def broken(path: Path, pages: dict[Path, Page]) -> list[str]:
    """The links of a page that lead nowhere in the site."""
    wrong = []
    for link in pages[path].links + pages[path].loaded:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        found = target.is_file() and (
            not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
        )
        if not found:
            wrong.append(link)
    return wrong


def test_every_link_within_the_site_leads_somewhere(pages):
    assert {path.name: broken(path, pages) for path in pages if path.name != "404.html" and broken(path, pages)} == {}


def test_the_test_of_the_links_can_fail(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h2 id="here"></h2><a href="#here"></a><a href="b.html"></a><a href="a.html#there"></a>'
    )
    path = tmp_path / "a.html"
    assert broken(path, {path: Page(path)}) == ["b.html", "a.html#there"]


def test_nothing_is_loaded_from_another_host(site, pages):
    assert {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc} == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_search_works_in_a_page_that_is_opened_from_a_disk(site):
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom")
    command = ["chromium", *options, f"{(site / 'guides' / 'timm.html').as_uri()}?q=onecycle"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
    assert re.search(r"[1-9]\d* matching documents?<", shown)
    assert 'href="../coming-from/dataloader.html' in shown.partition("md-search-result__list")[2]


def test_every_command_and_public_name_is_in_the_reference(site):
    reference = (site / "api.html").read_text()
    found = set(re.findall(r'id="budgetloader\.(?:errors\.)?(\w+)"', reference))
    assert set(budgetloader.__all__) <= found
    assert {"BatchPlan", "DirectEngine", "Job", "Output"} <= set(
        re.findall(r'id="budgetloader\.engines\.(\w+)"', reference)
    )
