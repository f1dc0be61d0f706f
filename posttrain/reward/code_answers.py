"""Finding the program in an answer."""

from __future__ import annotations

import ast
import re
import textwrap

from posttrain.reward.answers import without_thinking

_FENCED = re.compile(
    r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL
)
_PYTHON = ("python", "python3", "py", "")
# What a function may be followed by without ending the program: more definitions, open brackets.
_GOES_ON = re.compile(r"(def |class |import |from |async |@|#|\)|\]|\})")


def code_block(text: str, name: str = "") -> str | None:
    """The last closed block of Python, rather one that defines `name`; None where none is closed.

    An example of how to use a function often follows the function.
    """
    blocks = [code for language, code in _FENCED.findall(text) if language.lower() in _PYTHON]
    defining = [code for code in blocks if name and defines(code, name)]
    return (defining or blocks or [None])[-1]


def defines(code: str, name: str) -> bool:
    """Whether a function or class of that name begins a line."""
    return (
        re.search(rf"^(async\s+)?(def|class)\s+{re.escape(name)}\b", code, re.MULTILINE) is not None
    )


def program(text: str, name: str = "") -> str:
    """The answer's program: its block of code, or all of it."""
    text = without_thinking(text)
    code = code_block(text, name)
    return text if code is None else code


def completed(prompt: str, text: str, name: str) -> str:
    """The program that a prompt (code that ends within function `name`) and its answer make.

    An answer may be the whole function, which then gets the prompt's imports and other functions,
    or what goes on where the prompt ends. That ends before the first statement that is neither
    indented nor a definition: a base model knows no end.
    """
    code = program(text, name)
    if defines(code, name):
        return f"{prompt}\n    pass\n\n{code}"
    if code_block(without_thinking(text)) is not None and not code.startswith((" ", "\t")):
        code = textwrap.indent(code, "    ")
    lines = code.split("\n")
    end = next((n for n, line in enumerate(lines) if n and _ends(line)), len(lines))
    whole = prompt + "\n".join(lines[:end])
    if _parses(whole):
        return whole
    end = next((n for n, line in enumerate(lines) if n and line[:1].strip()), len(lines))
    return prompt + "\n".join(lines[:end])


def _ends(line: str) -> bool:
    return bool(line[:1].strip()) and not _GOES_ON.match(line)


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
