"""The folder of a `generate` stage: every answer as a row of parquet files, and the rows selected.

    dataset/
      prompts.jsonl            one prompt per line, as it was asked
      samples/000012.parquet   the answers to some of the prompts: a part, written whole
      tokenizer/               of the model that answered: what reward models are compared with
      rows.jsonl               what the selection made of them: data for other stages
      dataset.json             counts; written last

Parts are numbered by their first prompt, so that a stage that was killed goes on with those that
are missing. Any tool reads the files: `datasets.load_dataset("parquet", data_files=...)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, Problem
from posttrain.files import whole_file, write_json
from posttrain.types import Prompt, Rollout, Score

ROWS_FILE = "rows.jsonl"

OWN_SAMPLE = -1
"""Number of the answer that a row of the data brings with it, among those of the policy."""


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers to one prompt. A score is None where nothing scored, or the verifier broke."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]  # K by the policy; K + 1 with the data's own answer at the end
    scores: tuple[Score | None, ...]  # as many

    def of_policy(self, number: int) -> bool:
        return self.rollouts[number].sample != OWN_SAMPLE


class DatasetFolder:
    """Writes and reads the folder; each file whole or not at all."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Write the prompts; parts of an earlier attempt stay."""
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        self._write_lines("prompts.jsonl", map(_as_json, prompts))

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    def prompts(self) -> list[Prompt]:
        with (self.path / "prompts.jsonl").open(encoding="utf-8") as file:
            return [_prompt(json.loads(line)) for line in file]

    def has_part(self, first: int) -> bool:
        return self._part(first).exists()

    def write_part(self, first: int, answers: Sequence[Answers]) -> None:
        """The answers to the prompts from number `first` on."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            _row(first + offset, each.prompt, rollout, score)
            for offset, each in enumerate(answers)
            for rollout, score in zip(each.rollouts, each.scores, strict=True)
        ]
        with whole_file(self._part(first)) as partial:
            pq.write_table(pa.Table.from_pylist(rows), partial)

    def answers(self) -> Iterator[Answers]:
        """Prompt by prompt, in order. Raises InputError where a part is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        prompts = self.prompts()
        parts = (self.path / "samples").glob("*.parquet")
        for path in sorted(parts, key=lambda path: int(path.stem)):
            try:
                rows = pq.read_table(path).to_pylist()
            except pa.ArrowInvalid as error:
                raise InputError(_damaged(path, error)) from error
            by_prompt: dict[int, list[dict[str, Any]]] = {}
            for row in rows:
                by_prompt.setdefault(row["number"], []).append(row)
            for number, own in by_prompt.items():
                prompt = prompts[number]
                yield Answers(
                    prompt,
                    tuple(_rollout(prompt, row) for row in own),
                    tuple(_score(row) for row in own),
                )

    def finish(self, rows: Iterator[Mapping[str, Any]], summary: Mapping[str, Any]) -> int:
        """Write the selected rows, then the summary; returns the number of rows."""
        count = self._write_lines(ROWS_FILE, rows)
        write_json(self.path / "dataset.json", {**summary, "rows": count})
        return count

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "dataset.json").read_text(encoding="utf-8"))
        return found

    def _part(self, first: int) -> Path:
        return self.path / "samples" / f"{first:06d}.parquet"

    def _write_lines(self, name: str, rows: Iterator[Mapping[str, Any]]) -> int:
        count = 0
        with (
            whole_file(self.path / name) as partial,
            partial.open("w", encoding="utf-8") as file,
        ):
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        return count


def _damaged(path: Path, error: Exception) -> Problem:
    help = "delete it and run its stage again: it alone is made anew"
    message = f"is no whole parquet file: {str(error).splitlines()[0]}"
    return Problem("unreadable-file", message, path=str(path), help=help)


def _as_json(prompt: Prompt) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "source": prompt.source,
        "token_ids": list(prompt.token_ids),
        "text": prompt.text,
        "row": dict(prompt.row),
    }


def _prompt(found: Mapping[str, Any]) -> Prompt:
    return Prompt(
        found["id"], found["source"], tuple(found["token_ids"]), found["text"], found["row"]
    )


def _row(number: int, prompt: Prompt, rollout: Rollout, scored: Score | None) -> dict[str, Any]:
    return {
        "number": number,
        "sample": rollout.sample,
        "source": prompt.source,
        "prompt": prompt.text,
        "completion": rollout.text,
        "score": scored.value if scored else None,
        "passed": scored.passed if scored else None,
        "parts": json.dumps(dict(scored.parts) if scored else {}),
        "tokens": len(rollout.token_ids),
        "cut": rollout.finish == "length",
        "token_ids": list(rollout.token_ids),
        "logprobs": list(rollout.logprobs),
    }


def _rollout(prompt: Prompt, row: Mapping[str, Any]) -> Rollout:
    ids = tuple(row["token_ids"])
    return Rollout(
        group_id=prompt.id,
        sample=row["sample"],
        prompt_ids=prompt.token_ids,
        token_ids=ids,
        mask=(1,) * len(ids),
        logprobs=tuple(row["logprobs"]),
        versions=(0,) * len(ids),
        text=row["completion"],
        finish="length" if row["cut"] else "stop",
    )


def _score(row: Mapping[str, Any]) -> Score | None:
    if row["score"] is None:
        return None
    return Score(row["score"], row["passed"], json.loads(row["parts"]))
