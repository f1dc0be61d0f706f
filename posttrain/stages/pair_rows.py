"""Rows of a stage that learns from comparisons, as token ids; what is no comparison is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from posttrain.config.data import ResolvedData
from posttrain.config.offline import Augment
from posttrain.errors import InputError, Problem
from posttrain.ports import PAIR, Said
from posttrain.prompts import comparisons
from posttrain.prompts.comparisons import COLUMNS, Comparison, comparison_of
from posttrain.prompts.spelling import misspelt_prompt
from posttrain.stages.context import context_length
from posttrain.stages.questions import refuse_too_long

if TYPE_CHECKING:
    from posttrain.prompts.sources import DataRow
    from posttrain.train.pairs import RenderedPair


@dataclass(frozen=True, slots=True)
class RenderedPairs:
    """The comparisons of a stage, and how many rows were none, by why."""

    pairs: list[RenderedPair]
    left_out: Mapping[str, int]

    @property
    def words(self) -> str:
        """`51 of 2312 rows are no comparisons and are left out: an answer is empty 2, ...`"""
        gone = sum(self.left_out.values())
        reasons = ", ".join(f"{why} {n}" for why, n in Counter(self.left_out).most_common())
        total = gone + len(self.pairs)
        return f"{gone} of {total} rows are no comparisons and are left out: {reasons}"


class PairRows:
    """The rows of a stage as they are rendered: kept, left out and counted, or refused."""

    def __init__(
        self, data: Mapping[str, Any], seed: int, needs: Sequence[str], limit: int
    ) -> None:
        """`limit`: most tokens of a row."""
        from posttrain.prompts.decontamination import TrainingRows

        self._spec = ResolvedData.model_validate(dict(data))
        self._limit = limit
        self.source = TrainingRows(self._spec, seed=seed, needs=needs)
        self.faults: Counter[str] = Counter()
        self._kept: list[RenderedPair] = []
        self._too_long: list[tuple[DataRow, int]] = []
        self._refused: list[tuple[DataRow, str]] = []

    def leave_out(self, row: DataRow, why: str) -> None:
        """Counted; refused in the end where `data.bad_rows` says so."""
        self.faults[why] += 1
        if row.data.bad_rows == "refuse":
            self._refused.append((row, why))

    def fits(self, row: DataRow, tokens: int) -> bool:
        """Whether the row may be kept; one that is too long is noted."""
        if tokens > self._limit:
            self._too_long.append((row, tokens))
        return tokens <= self._limit

    def keep(self, pair: RenderedPair) -> None:
        self._kept.append(pair)

    def finish(self, tokenizer: Any, report_to: str | None, nothing: str) -> RenderedPairs:
        """All that was kept; `nothing` says what is missing where that is none. Raises InputError
        for what is refused, and where no answer ends.
        """
        self.source.write_report(report_to)
        if self._refused:
            raise InputError(_refused_rows(self._refused))
        refuse_too_long("row-too-long", self._too_long, f"{self._limit} fit")
        result = RenderedPairs(self._kept, self.faults)
        if not self._kept:
            why = f": {result.words}" if self.faults else ""
            raise InputError(Problem("empty-data", f"{nothing}{why}", file=self._spec.shown))
        _require_answers_stop(self._kept, tokenizer)
        return result


def render_pairs(
    model_path: str,
    data: Mapping[str, Any],
    max_tokens: int | None,
    seed: int,
    *,
    answers: Mapping[str, Said] = PAIR,
    revision_prompt: str = "",
    report_to: str | None = None,
    augment: Augment | None = None,
) -> RenderedPairs:
    """Every comparison, tokenised with the model's own tokenizer and template.

    `answers` are those that the objective compares. A row that is no comparison (see
    `prompts.comparisons`) is refused with its place, or left out and counted where `data.bad_rows`
    is `skip`. `augment` gives each pair variants. Otherwise as `sft_rows.render_rows`. Raises
    InputError.
    """
    from posttrain.model.load import load_tokenizer
    from posttrain.train.pairs import RenderedPair

    rows = PairRows(data, seed, COLUMNS, max_tokens or context_length(model_path))
    render = _Renderer(load_tokenizer(model_path), revision_prompt)
    own = {name: said for name, said in answers.items() if not said.of_next}
    for each in rows.source:
        found = comparison_of(each.row)
        if isinstance(found, str):
            rows.leave_out(each, found)
            continue
        pair = RenderedPair(render.answers(found, own))
        if pair.answers["chosen"] == pair.answers["rejected"]:  # once the template has trimmed them
            rows.faults[comparisons.SAME] += 1
        elif rows.fits(each, max(map(pair.length, pair.answers))):
            variants = render.variants(each, found, own, augment, seed) if augment else ()
            rows.keep(replace(pair, variants=tuple(variants)))
    return rows.finish(render.tokenizer, report_to, "no comparison is left")


def _require_answers_stop(pairs: Sequence[RenderedPair], tokenizer: Any) -> None:
    """An answer that never ends teaches a policy not to stop: the first of each row are looked at.

    Raises InputError.
    """
    from posttrain.model.chat import RenderedRow, require_stops

    rows = (
        RenderedRow((*context, *answer), (0,) * len(context) + (1,) * len(answer), "")
        for context, answer in (next(iter(pair.answers.values())) for pair in pairs)
    )
    require_stops(list(rows)[:1000], tokenizer)


class _Renderer:
    """Comparisons to ids, answer by answer."""

    def __init__(self, tokenizer: Any, revision_prompt: str) -> None:
        self.tokenizer = tokenizer
        self._revision = revision_prompt

    def answers(
        self, row: Comparison, wanted: Mapping[str, Said]
    ) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """name -> (ids before the answer, ids of the answer with its end of turn)."""
        from posttrain.model.chat import render, render_prompt

        contexts: dict[str, tuple[Any, tuple[int, ...]]] = {}
        found = {}
        for name, said in wanted.items():
            if said.after not in contexts:  # rendering is what reading rows costs
                asked = row.prompt if said.after == "prompt" else self._with_draft(row, said.after)
                ids = render_prompt({"prompt": asked}, self.tokenizer).token_ids
                contexts[said.after] = asked, ids
            prompt, context = contexts[said.after]
            text = row.chosen if said.answer == "chosen" else row.rejected
            whole = render({"prompt": prompt, "completion": text}, self.tokenizer).token_ids
            found[name] = context, whole[len(context) :]
        return found

    def variants(
        self,
        row: DataRow,
        found: Comparison,
        wanted: Mapping[str, Said],
        augment: Augment,
        seed: int,
    ) -> list[RenderedPair]:
        """The comparison behind misspelt prompts, each once: a function of the seed and the row."""
        from posttrain.train.pairs import RenderedPair

        made = {}
        for number in range(augment.variants):
            random = Random(f"{seed}/spelling/{row.part}/{row.number}/{number}")
            prompt = misspelt_prompt(found.prompt, augment.noise, random)
            if prompt != found.prompt:
                pair = RenderedPair(self.answers(replace(found, prompt=prompt), wanted))
                made[pair.prompt] = pair
        return list(made.values())

    def _with_draft(self, row: Comparison, draft: str) -> str | list[Mapping[str, str]]:
        text = row.chosen if draft == "chosen" else row.rejected
        if isinstance(row.prompt, str) and not self.tokenizer.chat_template:
            return f"{row.prompt}{text}\n{self._revision}\n"  # no roles to tell apart
        asked = (
            [{"role": "user", "content": row.prompt}]
            if isinstance(row.prompt, str)
            else list(row.prompt)
        )
        return [
            *asked,
            {"role": "assistant", "content": text},
            {"role": "user", "content": self._revision},
        ]


def _refused_rows(rows: Sequence[tuple[DataRow, str]]) -> Problem:
    """The first of the rows that are refused, why, and where others are."""
    row, why = rows[0]
    more = [each.number for each, _ in rows[1:]]
    also = f"; {len(more)} more: {', '.join(map(str, more[:3]))}" if more else ""
    also += ", ..." if len(more) > 3 else ""
    help = "mend the rows, or `data.bad_rows: skip` leaves them out and counts them"
    return Problem("bad-row", f"{why}{also}", "", row.data.path, row.number, help)
