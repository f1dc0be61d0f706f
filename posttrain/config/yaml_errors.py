"""PyYAML's phrases in our words: what is wrong with the text, and what to write."""

from __future__ import annotations

import yaml

from posttrain.errors import Problem


def yaml_problem(error: yaml.MarkedYAMLError, text: str, shown: str) -> Problem:
    """What stopped PyYAML from reading `text`, and where, as a problem of the file `shown`."""
    mark = error.problem_mark or error.context_mark
    opened = error.context_mark.line + 1 if error.context_mark else None
    line = mark.line + 1 if mark else None
    message, help = _yaml_words(error.problem or "", error.context or "", opened, _line(text, line))
    if "is not closed" in message:
        line = opened  # where the bracket or quotation mark stands, not where the file ran out
    return Problem("bad-yaml", message, "", shown, line, help)


def _line(text: str, number: int | None) -> str:
    lines = text.splitlines()
    return lines[number - 1] if number and number <= len(lines) else ""


_FLOW = {"{": "{prompts: 32, samples_per_prompt: 8}", "[": "[base, sft, rlvr]"}


def _yaml_words(problem: str, context: str, opened: int | None, line: str) -> tuple[str, str]:
    """(what is wrong, what to write) for the phrases of PyYAML's scanner and parser."""
    indentation = "keys side by side start in the same column; what belongs to a key stands deeper"
    if "'\\t'" in problem or line[: len(line) - len(line.lstrip())].count("\t"):
        return "a tab stands in the indentation", "indent with spaces"
    if "flow mapping" in context or "flow sequence" in context:
        bracket = "{" if "mapping" in context else "["
        return f"`{bracket}` is not closed, or a `,` is missing", f"example: {_FLOW[bracket]}"
    if "flow node" in context:
        return "a value is missing inside brackets, or they are not closed", "example: [base, sft]"
    if "quoted scalar" in context:
        return "a quotation mark is not closed", "close it on the same line"
    if "mapping values are not allowed" in problem:
        return "the indentation does not fit, or a value holds `: ` without quotes", indentation
    if "expected <block end>" in problem:
        return f"the indentation does not fit the block that starts in line {opened}", indentation
    if "could not find expected ':'" in problem:
        return "a key has no `:` behind it", "write `key: value`, with a space"
    if "found undefined alias" in problem:
        return problem.replace("found undefined alias", "no anchor for alias"), "define it: `&name`"
    if "cannot start any token" in problem:
        found = problem.partition("character ")[2].partition(" that")[0].strip("'")
        return f"`{found}` cannot start a value", "put the value in quotes"
    if "expected a single document" in context:
        return "a second document starts here (`---`)", "one pipeline per file"
    return f"not YAML: {problem}", indentation
