"""The stub of the native module beside the module: what one says of a thing, the other says as well."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import deadpool
from deadpool import _core

STUB = Path(deadpool.__file__).with_name("_core.pyi")
# Said of by the class.
CONSTRUCTORS = {"__new__", "__init__"}
Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(
    body: list[ast.stmt], owner: object, prefix: str = ""
) -> Iterator[tuple[str, Named]]:
    seen = set()
    for node in body:
        if not isinstance(node, Named) or node.name in CONSTRUCTORS | seen:
            continue
        is_overload = any(getattr(mark, "id", "") == "overload" for mark in node.decorator_list)
        if is_overload and ast.get_docstring(node) is None:
            # The first overload says it for all.
            continue
        seen.add(node.name)
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from documented(node.body, getattr(owner, node.name), f"{node.name}.")


NAMED = dict(documented(ast.parse(STUB.read_text()).body, _core))


@pytest.mark.parametrize("name", NAMED)
def test_docstring(name: str) -> None:
    found: object = _core
    for part in name.split("."):
        found = getattr(found, part)
    text = getattr(found, "__doc__", None)
    assert ast.get_docstring(NAMED[name]) == (inspect.cleandoc(text) if text else None)


def test_something_is_compared() -> None:
    assert {"FutureBase.result", "PoolBase.submit", "Completer"} <= NAMED.keys()
