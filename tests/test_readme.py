"""What README says can be typed, can be typed; most of it is run by the tests of what it runs."""

import re
import shlex
import subprocess
import sys

from conftest import ROOT

README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """Each command of README's code blocks, split, without its comment."""
    blocks = [text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S) if not kind]
    return [parts for block in blocks for line in block.splitlines() if (parts := shlex.split(line, comments=True))]


def test_every_option_of_every_python_command_exists():
    asked: dict[tuple[str, ...], set[str]] = {}
    for parts in commands():
        if parts[0] == "budgetloader":
            key, rest = ("budgetloader", parts[1]), parts[2:]
        elif "-m" in parts and parts[parts.index("-m") + 1].startswith("budgetloader."):
            module, *rest = parts[parts.index("-m") + 1 :]
            key = (module,)
        else:
            continue
        asked.setdefault(key, set()).update(part for part in rest if part.startswith("--"))
    assert len(asked) > 10
    command = [sys.executable, "-m"]
    running = {
        key: subprocess.Popen([*command, *key, "--help"], stdout=subprocess.PIPE, text=True, cwd=ROOT) for key in asked
    }
    for key, options in asked.items():
        shown = running[key].communicate(timeout=100)[0]
        for option in options:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"{' '.join(key)} has no {option}"


def test_every_script_and_target_is_there():
    makefile = (ROOT / "Makefile").read_text()
    extras = (ROOT / "pyproject.toml").read_text()
    for parts in commands():
        for part in parts:
            if re.fullmatch(r"(examples|tools|docker)/[\w./]+", part):
                assert (ROOT / part).is_file(), part
            if extra := re.fullmatch(r"\.\[(\w+)\]", part):
                assert f"\n{extra[1]} = [" in extras
        if parts[0] == "make":
            assert re.search(rf"^{parts[-1]}:", makefile, re.M), parts


def test_every_link_into_the_repository_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
