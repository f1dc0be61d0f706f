"""One vocabulary of errors.

Every error of ours says what is wrong (`message`), where (`place`) and what to do (`help`), has a
name to look up (`code`), and survives pickling, because most of them cross a process boundary.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the input, as `posttrain check` prints it.

    Example: Problem("unknown-key", "no key `sample_per_prompt`", "stages.rlvr.batch",
    "mine.yaml", 31, "did you mean `samples_per_prompt`?")
    """

    code: str
    message: str
    path: str = ""  # dotted key inside the pipeline file, or another place such as `stage dpo`
    file: str = ""
    line: int | None = None
    help: str = ""
    severity: str = "error"  # or "warning"

    @property
    def place(self) -> str:
        """`mine.yaml:31 stages.rlvr.batch`: file, line and key, as far as each is known."""
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return " ".join(part for part in (where, self.path) if part)

    def render(self) -> str:
        """The two lines that a person reads: the fact with its place, then the cure."""
        place = f" {self.place}" if self.place else ""
        text = f"{self.severity}[{self.code}]{place}: {self.message}"
        return f"{text}\n  help: {self.help}" if self.help else text


class PosttrainError(Exception):
    """Base of every error raised on purpose. `exit_code` is what the command line returns."""

    code = "failed"
    exit_code = 1
    is_shown = False  # whether a screen has told it already

    def __init__(self, message: str, *, place: str = "", help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.help = help

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.place, self.help, dict(self.__dict__))

    def problem(self) -> Problem:
        return Problem(self.code, self.message, path=self.place, help=self.help)


def _rebuild(
    kind: type[PosttrainError], message: str, place: str, help: str, state: dict[str, object]
) -> PosttrainError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    error.message, error.place, error.help = message, place, help
    return error


class InputError(PosttrainError):
    """Something the user wrote is wrong. Raised before work starts; carries all mistakes."""

    code = "bad-input"
    exit_code = 2

    def __init__(self, problems: list[Problem] | Problem) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        first = self.problems[0]
        super().__init__(first.message, place=first.place, help=first.help)


class StageFailed(PosttrainError):
    """A stage ended without its artifact."""

    code = "stage-failed"


class ProcessDied(StageFailed):
    """A process that was waited for has died; it may be started again."""


class RankLost(ProcessDied):
    """Another rank of the trainer has died. All of them are started again from the last commit."""


class GateFailed(PosttrainError):
    """A gate said stop: the stage is done and kept, but what follows is not started."""

    code = "gate-failed"
    exit_code = 3


class Interrupted(PosttrainError):
    """The user asked to stop. What was finished is kept."""

    code = "interrupted"
    exit_code = 130


class NotRemoved(PosttrainError):
    """Something that was to be removed is still there. The message says how much was."""

    code = "not-removed"


class DeadlineExceeded(PosttrainError):
    """A wait across processes took too long; the message names who waited for whom."""

    code = "deadline"


class EngineFailed(PosttrainError):
    """A rollout engine did not start, or died."""

    code = "engine-start"


class WeightsDiffer(PosttrainError):
    """An engine answers with other weights than the trainer published."""

    code = "weights-differ"


class WeightsGone(WeightsDiffer):
    """Published weights are no longer where they were: a newer version has replaced them."""

    code = "weights-gone"


class RewardBroken(PosttrainError):
    """A verifier itself failed (raised, hung, returned no number). Never scored 0."""

    code = "verifier-failing"


class NoSandbox(RewardBroken):
    """A reward has to run programs, and there is no way to do so safely here."""

    code = "no-sandbox"


@dataclass(slots=True)
class ProblemList:
    """Collects mistakes so that all of them are shown at once."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        self.problems.append(problem)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    def raise_if_any(self) -> None:
        if self.errors:
            raise InputError(self.problems)
