"""The rooms of the sources, and which may know which."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import deadpool

ROOT = Path(__file__).parents[2]
RUST = ROOT / "src"
PYTHON = ROOT / "python" / "deadpool"

# What each room of the core may name. `cargo` itself sees to it that only `python` knows PyO3.
GROUND = {"error", "exit_status", "fallible", "ids", "outcome", "task", "time"}
RUST_ROOMS = {
    "error": set(),
    "exit_status": set(),
    "fallible": {"error"},
    "ids": set(),
    "time": set(),
    "task": {"ids"},
    "outcome": {"exit_status"},
    "sys": GROUND,
    "wire": GROUND | {"sys"},
    "policy": GROUND,
    "supervisor": GROUND | {"sys", "wire", "policy"},
    "child": GROUND | {"sys", "wire"},
    "python": GROUND | {"sys", "wire", "policy", "supervisor", "child"},
    "lib": set(),
}
# Those of the core's dependencies that a pure room may not name.
IMPURE = (
    "pyo3",
    "nix",
    "procfs",
    "std::fs",
    "std::os",
    "std::net",
    "std::process",
    "Instant",
    "SystemTime",
)


def rust_rooms() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in sorted(RUST.rglob("*.rs")):
        first = path.relative_to(RUST).parts[0]
        rooms.setdefault(first.removesuffix(".rs"), []).append(path)
    return rooms


def code(path: Path) -> str:
    """Return what a Rust file has beside comments."""
    return re.sub(r"//.*", "", path.read_text())


def test_each_room_of_the_core_has_its_rule() -> None:
    assert set(rust_rooms()) == set(RUST_ROOMS)


@pytest.mark.parametrize("room", RUST_ROOMS)
def test_a_room_of_the_core_knows_only_what_it_may(room: str) -> None:
    for path in rust_rooms()[room]:
        named = set(re.findall(r"\bcrate::(\w+)", code(path)))
        assert named <= RUST_ROOMS[room] | {room}, path


def test_the_policy_is_pure() -> None:
    for path in rust_rooms()["policy"]:
        found = [name for name in IMPURE if re.search(rf"\b{name}\b", code(path))]
        assert not found, path


# The private packages, and what they may import of the package.
INTERFACES = {"_pool", "_celery", "_chancy"}
PYTHON_ROOMS = {
    "_child": {"_core", "_exceptions", "_failures"},
    "_start": {"_core", "_environ", "_exit", "_child"},
    "_pool": {
        "_core",
        "_checks",
        "_exceptions",
        "_executor",
        "_exit",
        "_failures",
        "_future",
        "_child",
    },
    "_celery": {"_core", "_exceptions", "_executor", "_future", "_worker_info", "_child"},
    "_chancy": {"_core", "_exceptions", "_executor", "__init__"},
}


def imports(path: Path) -> set[str]:
    """Return the modules and packages directly below ``deadpool`` that a file imports when it runs."""
    found: set[str] = set()
    package = path.relative_to(PYTHON).parts[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing_only:
            continue
        base = package[: len(package) - node.level + 1]
        for name in node.names:
            parts = [*base, *(node.module or "").split("."), name.name]
            first = next(part for part in parts if part)
            is_module = (PYTHON / first).is_dir() or (PYTHON / f"{first}.py").exists()
            found.add(first if is_module or first == "_core" else "__init__")
    return found


def python_rooms() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PYTHON.rglob("*.py")):
        parts = path.relative_to(PYTHON).parts
        rooms.setdefault(parts[0].removesuffix(".py"), []).append(path)
    return rooms


@pytest.mark.parametrize("room", PYTHON_ROOMS)
def test_a_private_package_knows_only_what_it_may(room: str) -> None:
    for path in python_rooms()[room]:
        assert imports(path) <= PYTHON_ROOMS[room] | {room}, path


def test_workers_import_private_packages_through_nothing() -> None:
    for room in PYTHON_ROOMS:
        assert (PYTHON / room / "__init__.py").read_text() == ""


def test_there_is_no_circle() -> None:
    arrows = {
        room: {name for path in paths for name in imports(path)} - {room, "__init__"}
        for room, paths in python_rooms().items()
    }
    left = dict(arrows)
    while free := [room for room, needed in left.items() if not needed & left.keys()]:
        for room in free:
            del left[room]
    assert not left


# Names in strings, which no compiler and no linter sees.


def strings_that_name_modules() -> list[tuple[str, str, str]]:
    """Return each such string: the file, the module, and what is taken from it if that can be seen."""
    found = []
    for path in sorted([*RUST.rglob("*.rs"), *PYTHON.rglob("*.py")]):
        text = path.read_text()
        for module, name in re.findall(
            r'"(deadpool\.[\w.]+)"\)?\??\s*\.(?:getattr|call_method[01]?)\(\s*"(\w+)"', text
        ):
            found.append((path.name, module, name))
        for module, name in re.findall(r"(?:from) (deadpool[\w.]*) import (\w+)", text):
            found.append((path.name, module, name))
        found += [
            (path.name, module, "") for module in re.findall(r'"(deadpool\._\w[\w.]*)"', text)
        ]
    return found


@pytest.mark.parametrize(
    ("module", "name"), sorted({found[1:] for found in strings_that_name_modules()})
)
def test_a_string_names_what_is_there(module: str, name: str) -> None:
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("deadpool"):
            raise
        pytest.skip(f"needs {error.name}")
    assert not name or hasattr(imported, name) or importlib.import_module(f"{module}.{name}")


def test_some_strings_are_found() -> None:
    modules = {found[1] for found in strings_that_name_modules()}
    assert {
        "deadpool._failures",
        "deadpool._child.worker",
        "deadpool._child.fork_server",
    } <= modules


def test_public_names_say_their_public_home() -> None:
    for name in deadpool.__all__:
        value = getattr(deadpool, name)
        if isinstance(value, type) and value.__module__.startswith("deadpool"):
            assert value.__module__ == "deadpool"
