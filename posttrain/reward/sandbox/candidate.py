"""The side of a judgement that cannot be trusted: runs a solution and answers what is asked of it.

Alone in its box: the tests are in another one. All that comes in are questions (a name, a call with
its arguments), all that goes out is plain data. Code that takes this file over gains nothing but
the right to answer. Runs as text.
"""

from __future__ import annotations

import sys

from posttrain.reward.sandbox.codec import decode, encode, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def serve(channel: int, source: str) -> None:
    """Say hello, run the solution, then answer questions until the channel closes."""
    objects: list[Any] = []

    def number_of(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    send(channel, encode(("hello",), number_of))
    solution = type(sys)("solution")
    sys.modules["solution"] = solution
    try:
        exec(compile(source, "<solution>", "exec"), solution.__dict__)
        loaded: tuple[Any, ...] = ("value", None)
    except BaseException as error:  # boundary: whatever a solution raises is its answer
        loaded = _raised(error)
    send(channel, encode(loaded, number_of))
    while (question := receive(channel)) is not None:
        try:
            answer = _answer(solution, *decode(question, objects.__getitem__))
            content = encode(answer, number_of)
        except BaseException as error:  # boundary: likewise
            content = encode(_raised(error), number_of)
        send(channel, content)


def _answer(solution: Any, what: str, target: Any, *rest: Any) -> tuple[Any, ...]:
    if what == "name":
        names = solution.__dict__
        return ("value", names[target]) if target in names else ("missing",)
    if what == "call":
        return ("value", target(*rest[0], **rest[1]))
    if what == "get":
        return ("value", getattr(target, rest[0]))
    if what == "set":
        setattr(target, *rest)
        return ("value", None)
    if what == "iterate":
        return ("value", _Iterator(iter(target)))
    try:
        return ("value", next(target.iterator))
    except StopIteration:
        return ("stop",)


class _Iterator:
    """Keeps an iterator from being taken for what it iterates over."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator


def _raised(error: BaseException) -> tuple[Any, ...]:
    kind = next(
        (each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins"),
        "Exception",
    )
    try:
        message = str(error)[:200]
    except BaseException:  # a message that raises in its turn
        message = ""
    return ("error", kind, type(error).__name__, message)
