"""The house rules that a machine can check: import arrows, sizes, safe files, pins, portable text."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "relic_kernels": ROOT / "kernels" / "relic_kernels",
    "relic": ROOT / "relic",
    "relic_data": ROOT / "data_tools" / "relic_data",
    "relic_distill": ROOT / "distill" / "relic_distill",
    "relic_app": ROOT / "app" / "relic_app",
}
SOURCE_SUFFIXES = {".py", ".sh", ".js", ".css", ".html", ".cpp", ".h"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_FUNCTIONS = {"torch.load", "torch.save"}
REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root)/")


@cache
def repository_files() -> tuple[Path, ...]:
    """What git tracks or would track; outside a git checkout, everything but caches and environments."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        hidden = re.compile(r"/(\.(?!ci/|gitignore)|__pycache__/|out/|[^/]+\.egg-info/)")
        paths = [path for path in ROOT.rglob("*") if not hidden.search("/" + str(path.relative_to(ROOT)))]
    return tuple(sorted(path for path in paths if path.is_file()))


def text_of(path: Path) -> str:
    """The text of a file, or nothing for a binary one."""
    raw = path.read_bytes()
    return "" if b"\0" in raw[:8192] else raw.decode("utf-8", errors="replace")


def relative(path: Path, line: int | None = None) -> str:
    place = str(path.relative_to(ROOT))
    return place if line is None else f"{place}:{line}"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path), filename=str(path))


def python_files(*folders: Path) -> list[Path]:
    """The repository's Python files, or those of them under one of the folders."""
    files = [path for path in repository_files() if path.suffix == ".py"]
    return [path for path in files if not folders or any(path.is_relative_to(folder) for folder in folders)]


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute names of the modules that the nodes of a tree import, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno


def imported_on_import(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The same without what only a call of a function, or a type checker, would import."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_modules(node)
        pending.extend(ast.iter_child_nodes(node))


def top_level(module: str) -> str:
    return module.partition(".")[0]


def test_files_are_short():
    lengths = {
        relative(path): len(text_of(path).splitlines()) for path in repository_files() if path.suffix in SOURCE_SUFFIXES
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_short():
    long = {}
    for path in python_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{relative(path, node.lineno)} {node.name}"] = lines
    assert long == {}


def unpickling_in(tree: ast.Module) -> Iterator[int]:
    """The lines that import a pickling module, name `torch.load`, or let numpy read pickled objects."""
    yield from (line for name, line in imported_modules(tree) if top_level(name) in UNSAFE_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE_FUNCTIONS:
            yield node.lineno
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield node.value.lineno


def test_nothing_is_unpickled():
    files = python_files(*PACKAGES.values())
    assert [relative(path, line) for path in files for line in unpickling_in(tree_of(path))] == []


def test_nothing_is_left_for_later():
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    found = [
        relative(path, number)
        for path in python_files(*PACKAGES.values())
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if unfinished.search(line)
    ]
    assert found == []


def test_import_arrows_hold():
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", lint, "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_app_loads_data_tools_and_training_only_when_asked():
    found = [
        f"{relative(path, line)} {name}"
        for path in python_files(PACKAGES["relic_app"])
        for name, line in imported_on_import(tree_of(path))
        if top_level(name) in {"relic_data", "relic_distill"}
    ]
    assert found == []


def test_kernels_know_torch_and_triton_only():
    known = {"relic_kernels", "torch", "triton"} | set(sys.stdlib_module_names)
    found = [
        f"{relative(path, line)} {name}"
        for path in python_files(PACKAGES["relic_kernels"])
        for name, line in imported_modules(tree_of(path))
        if top_level(name) not in known
    ]
    assert found == []


def test_component_folders_are_no_packages():
    """A package called `kernels` would hide another library of that name, which transformers imports."""
    components = [folder.parent for folder in PACKAGES.values() if folder.parent != ROOT]
    assert [relative(folder) for folder in components if (folder / "__init__.py").exists()] == []
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {Path(entry).name for entry in shipped["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert names == set(PACKAGES)
    needed = [folder / name for folder in PACKAGES.values() for name in ("__init__.py", "py.typed")]
    assert [relative(path) for path in needed if not path.is_file()] == []


def normalised(requirement: str) -> str:
    """The distribution's name in a requirement line, as package indexes compare it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def pins() -> dict[str, str]:
    """The lines of constraints.txt by distribution."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normalised(line): line for line in lines if line and not line.startswith("#")}


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    pinned = pins()
    assert [line for line in wanted if normalised(line) not in pinned] == []


def test_pins_suit_every_machine():
    pinned = pins()
    assert [line for line in pinned.values() if "==" not in line or "+" in line] == []
    assert [name for name in pinned if name.startswith(("nvidia", "cuda"))] == []
    exact = (ROOT / "requirements-no-deps.txt").read_text().splitlines()
    assert [line for line in exact if not line.startswith("#") and "==" not in line] == []


@pytest.mark.parametrize("what", ["machine path", "package registry"])
def test_text_names_no(what: str):
    def names_one(line: str) -> bool:
        if what == "machine path":
            return MACHINE_PATH.search(line) is not None
        return any(host in line for host in REGISTRIES)

    found = [
        relative(path, number)
        for path in repository_files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if names_one(line)
    ]
    assert found == []


def test_links_between_documents_lead_somewhere():
    link = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
    broken = [
        f"{relative(path)} -> {target}"
        for path in repository_files()
        if path.suffix == ".md"
        for target in link.findall(text_of(path))
        if not (path.parent / target).exists()
    ]
    assert broken == []
