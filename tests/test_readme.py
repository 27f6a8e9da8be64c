"""What README and the other pages say can be typed, can be; most of it is run by the tests of what it runs."""

import re
import shlex
import subprocess
import sys

from conftest import ROOT
from pages import NAMES, PAGES, blocks


def commands() -> list[list[str]]:
    """Each command of the pages' code blocks, split, without its comment."""
    texts = [block.text for page in PAGES for block in blocks(page) if not block.kind]
    return [parts for text in texts for line in text.splitlines() if (parts := shlex.split(line, comments=True))]


def test_every_option_of_every_python_command_exists():
    asked: dict[tuple[str, ...], set[str]] = {}
    for parts in commands():
        if parts[0] == "budgetloader":
            key, rest = ("budgetloader", parts[1]), parts[2:]
        elif "-m" in parts and parts[parts.index("-m") + 1].partition(".")[0] == "budgetloader":
            module, *rest = parts[parts.index("-m") + 1 :]
            key = (module, rest.pop(0)) if module == "budgetloader" else (module,)
        else:
            continue
        asked.setdefault(key, set()).update(part for part in rest if part.startswith("--"))
    assert len(asked) > 10
    command = [sys.executable, "-m"]
    running = {
        key: subprocess.Popen([*command, *key, "--help"], stdout=subprocess.PIPE, text=True, cwd=ROOT) for key in asked
    }
    shown = {key: process.communicate(timeout=100)[0] for key, process in running.items()}
    for key, options in asked.items():
        for option in options:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown[key]), f"{' '.join(key)} has no {option}"
    # Captions name the benches that made the records: their options are read from the source, which is quicker.
    every = "".join([*shown.values(), *(path.read_text() for path in (ROOT / "bench").glob("*.py"))])
    others = {"--build-arg", "--shm-size"}  # docker's
    timms = {"--aa", "--reprob", "--remode", "--mixup", "--cutmix", "--mixup-mode", "--smoothing"}  # of its train.py
    spoken = {
        (name, option)
        for name, page in NAMES.items()
        for code in re.findall(r"`([^`\n]+)`", page.read_text())
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    assert len(spoken) > 30
    spoken -= {("docs/guides/timm-recipe.md", option) for option in timms}
    wrong = [(name, o) for name, o in spoken if o not in others and not re.search(rf"(?<![\w-]){o}(?![\w-])", every)]
    assert wrong == [], "no command has these"


def test_every_script_and_target_is_there():
    makefile = (ROOT / "Makefile").read_text()
    extras = (ROOT / "pyproject.toml").read_text()
    for parts in commands():
        for part in parts:
            if re.fullmatch(r"(examples|tools|docker|tests)/[\w./]+", part):
                assert (ROOT / part).is_file(), part
            if extra := re.fullmatch(r"\.\[(\w+)\]", part):
                assert f"\n{extra[1]} = [" in extras
        if parts[0] == "make":
            assert re.search(rf"^{parts[-1]}:", makefile, re.M), parts


def test_every_file_of_the_repository_that_is_named_is_there():
    """Such as the tests by which a page shows a promise."""
    folders = "tests|loader|models|bench|examples|docker|tools|docs"
    named = {
        (name, path)
        for name, page in NAMES.items()
        for path in re.findall(rf"`((?:{folders})/[\w./]+\.\w+)`", page.read_text())
        if not re.search(r"[A-Z]{4}|/toy\.py", path)
    }
    assert len(named) > 30
    assert sorted(f"{name}: {path}" for name, path in named if not (ROOT / path).exists()) == []


def test_every_link_into_the_repository_leads_somewhere():
    """As a code host shows the pages, which is not how the site has them."""
    wrong, count = [], 0
    for name, page in NAMES.items():
        for link in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text()):
            count += 1
            if not (page.parent / link).exists():
                wrong.append(f"{name}: {link}")
    assert wrong == [] and count > 100
