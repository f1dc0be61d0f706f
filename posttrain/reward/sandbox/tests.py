"""Tests as data sets write them, made ready for `judge`: asserts that are counted one by one."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.errors import RewardBroken


@dataclass(frozen=True, slots=True)
class Tests:
    """What a solution is judged by. All of it is trusted; the solution never sees it."""

    setup: str  # run before the tests, in their process
    tests: tuple[str, ...]
    names: tuple[str, ...]  # what the solution has to define
    also: str = ""  # what the tests call the first of them besides
    num_asserts: int = 1  # as they are written; loops run some more often


def with_check(prompt: str, entry_point: str, test: str) -> Tests:
    """HumanEval's form: `test` defines `check(candidate)`.

    Tests may use what the prompt defines besides. They get it from the prompt, not from the
    solution, which could have changed it. Raises RewardBroken for what is not Python.
    """
    tree = _parsed(test)
    counted = _counted(tree)
    call = f"check({entry_point})"
    setup = f"{prompt}\n    pass\n"  # the function that is asked for, empty
    _parsed(setup)
    return Tests(setup, (f"{counted}\n{call}",), (entry_point,), "candidate", _num_asserts(tree))


def with_asserts(setup: str, asserts: Sequence[str]) -> Tests:
    """MBPP's form: lines that assert something of functions whose names stand in them alone."""
    tree = _parsed("\n".join([setup, *asserts]))
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_bound(node)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)}
    bound |= {_first(alias) for node in ast.walk(tree) if isinstance(node, _IMPORTS)
              for alias in node.names}  # fmt: skip
    used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    free = dict.fromkeys(name for name in used if name not in bound)
    imports = [name for name in free if name in sys.stdlib_module_names]
    names = [name for name in free if name not in imports and not hasattr(builtins, name)]
    # A function may be called as a built-in one is: `assert sum(...) == 3` asks the solution's,
    # where nothing else could be meant.
    called = [_called(each) for each in asserts]
    names = names or [name for name in dict.fromkeys(called) if name]
    if not names:
        raise RewardBroken("the row's tests call no function of the answer's")
    setup = "".join(f"import {name}\n" for name in imports) + setup.replace("\r\n", "\n")
    tests = tuple(_counted(_parsed(each)) for each in asserts)
    return Tests(setup, tests, tuple(names), "", _num_asserts(tree))


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)


class _Counting(ast.NodeTransformer):
    """Has each assert counted; after one that fails the next is run."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        (wrapped,) = ast.parse(
            "try:\n    pass\nexcept Exception as _error_:\n    _wrong_('', _error_)\n"
            "else:\n    _right_()"
        ).body
        assert isinstance(wrapped, ast.Try)
        wrapped.body = [ast.Assert(node.test, node.msg)]
        told = ast.Constant(ast.unparse(ast.Assert(node.test, None))[:200])
        call = wrapped.handlers[0].body[0]
        assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
        call.value.args[0] = told
        return wrapped


def _counted(tree: ast.Module) -> str:
    return ast.unparse(ast.fix_missing_locations(_Counting().visit(tree)))


def _num_asserts(tree: ast.Module) -> int:
    return max(1, sum(isinstance(node, ast.Assert) for node in ast.walk(tree)))


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text.replace("\r\n", "\n"))
    except SyntaxError as error:
        raise RewardBroken(f"the row's tests are not Python: {error}") from error


def _is_bound(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _first(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _called(text: str) -> str:
    """The function that an assert's left side calls, "" where there is none."""
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return node.func.id
    return ""
