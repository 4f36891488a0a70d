"""The source and the documents keep the project's own rules.

What ruff, mypy and import-linter check is theirs (`make test` runs them); here is what they cannot
see: file sizes, what README promises, links, and words that must not be in the tree.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 400
# Module → why it is longer. A reader should find the thing by its file's name, so keep this short.
LONGER_BECAUSE: dict[str, str] = {}

# Written so that no pattern matches its own source.
UNWANTED = {
    "a path of somebody's machine": r"/wor[k]/|/far[m]/|/tm[p]/[a-z]|/hom[e]/[a-z]|/User[s]/[a-z]",
    "a registry's host": (
        r"pyp[i]\.org|pythonhoste[d]\.org|de[b]\.debian\.org|registry\.npmj[s]|index-ur[l]"
    ),
    "a leftover": r"\bTO[D]O\b|\bFIXM[E]\b|\bXX[X]\b|not yet implemente[d]",
}
NOT_OURS = {".git", "__pycache__", "build", "dist", "node_modules"}


def files_of_the_tree() -> list[Path]:
    """All files that git tracks or would track; without git, all but the usual droppings."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return sorted(walk(ROOT))
    paths = {ROOT / name for name in listed.stdout.split("\0")}
    return sorted(path for path in paths if path.is_file())


def walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        hidden_or_made = path.name in NOT_OURS or path.suffix == ".egg-info"
        if path.is_dir() and not hidden_or_made and (path.name[0] != "." or path.name == ".ci"):
            yield from walk(path)
        elif path.is_file():
            yield path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = files_of_the_tree()
MODULES = [path for path in FILES if path.suffix == ".py" and ROOT / "vecstore" in path.parents]
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
README = ROOT / "README.md"


# --- The library's source ---------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_tidy(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = len(source.splitlines())
    assert lines <= LINES_MAX or name_of(path) in LONGER_BECAUSE, f"{lines} lines > {LINES_MAX}"
    assert ast.get_docstring(tree), "a module opens with what it is for"
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    prints = [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
    assert not prints, f"print() in lines {prints}: the library is silent, its commands use rich"


def test_allow_list_is_needed() -> None:
    """An entry goes when its module is short again, moved or gone."""
    for name in LONGER_BECAUSE:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > LINES_MAX, name


def test_package_says_that_it_is_typed() -> None:
    assert (ROOT / "vecstore/py.typed").is_file()


def test_public_names_have_docstrings() -> None:
    import vecstore

    bare = []
    for name in vecstore.__all__:
        thing = getattr(vecstore, name)
        members = {name: thing}
        if inspect.isclass(thing):
            members |= {f"{name}.{key}": vars(thing)[key] for key in vars(thing) if key[0] != "_"}
        bare += [
            key
            for key, value in members.items()
            if (inspect.isroutine(value) or isinstance(value, type | property))
            and not (value.__doc__ or "").strip()
        ]
    assert not bare, f"public, and without a docstring: {bare}"


def test_changelog_has_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['version']}]" in changelog


# --- Words that must not be in the tree -------------------------------------------------------


@pytest.mark.parametrize("what", UNWANTED)
def test_nothing_unwanted(what: str) -> None:
    pattern = re.compile(UNWANTED[what])
    found = []
    for path in FILES:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        if "\0" in text:
            continue
        found += [
            f"{name_of(path)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    assert not found, f"{what}:\n" + "\n".join(found)


# --- What the documents promise ---------------------------------------------------------------

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELLS = {"sh", "bash", "shell", "console"}


def commands_in(text: str) -> Iterator[list[str]]:
    """Every command shown in a shell block or in `inline code`, as words."""
    blocks = [body for language, body in FENCE.findall(text) if language in SHELLS]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    lines = [line for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    for line in lines + inline:
        for part in re.split(r"&&|\|\||[|;]", line.removeprefix("$ ")):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue  # code in another language
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                yield [Path(words[0]).name, *words[1:]]


def test_commands_in_documents_exist() -> None:
    import typer

    from vecstore import cli

    app = next(value for value in vars(cli).values() if isinstance(value, typer.Typer))
    verbs = set(getattr(typer.main.get_command(app), "commands", ()))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    unknown = []
    for path in DOCUMENTS:
        for program, *rest in commands_in(path.read_text(encoding="utf-8")):
            words = [word for word in rest if word[0:1].isalnum() and "=" not in word]
            if program == "make":
                unknown += [f"{name_of(path)}: make {word}" for word in set(words) - targets]
            elif program == "vecstore" and words and words[0] not in verbs:
                unknown.append(f"{name_of(path)}: vecstore {words[0]}")
    assert not unknown, unknown


def test_links_in_documents_lead_somewhere() -> None:
    dead = []
    for path in DOCUMENTS:
        text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", path.read_text(encoding="utf-8")))
        for target in re.findall(r"\]\(\s*<?([^)\s>]+)", text):
            file, _, _ = target.partition("#")
            if file and not re.match(r"[a-z]+:", file) and not (path.parent / file).exists():
                dead.append(f"{name_of(path)}: {target}")
    assert not dead, dead


def module_map() -> set[str]:
    """Paths that README's section "Module map" names, folders with their slash.

    The section holds a fenced tree, one path a line, indented by folder and with its purpose after
    it; or paths from the root in `inline code`.
    """
    readme = README.read_text(encoding="utf-8")
    heading = r"^(#+) [^\n]*module map[^\n]*\n"
    section = re.search(rf"{heading}(.*?)(?=^\1 |\Z)", readme, re.I | re.M | re.S)
    assert section, "README has no section called 'Module map'"
    paths = set()
    for _, body in FENCE.findall(section[2]):
        folders: list[tuple[int, str]] = []
        for line in filter(str.strip, body.splitlines()):
            indent, name = len(line) - len(line.lstrip()), line.split()[0]
            while folders and folders[-1][0] >= indent:
                folders.pop()
            name = (folders[-1][1] if folders else "") + name
            if name.endswith("/"):
                folders.append((indent, name))
            paths.add(name)
    inline = re.findall(r"`([^`\s]+)`", FENCE.sub("", section[2]))
    return paths | {name for name in inline if re.fullmatch(r"[\w.]+/[\w./-]*", name)}


def test_module_map_is_the_tree() -> None:
    named = module_map()
    gone = {name for name in named if not (ROOT / name).exists()}
    assert not gone, f"README's module map names what is not there: {sorted(gone)}"
    # A package may stand for its files.
    missing = {
        name
        for name in map(name_of, MODULES)
        if name not in named
        and not name.endswith("__init__.py")
        and f"{name.rpartition('/')[0]}/" not in named - {"vecstore/"}
    }
    assert not missing, f"README's module map does not name {sorted(missing)}"
