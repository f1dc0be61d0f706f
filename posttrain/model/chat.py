"""Rows as token ids: what the model reads, and which tokens it is trained to say.

A row becomes pieces of text, each either said by the assistant (trained) or not. Every piece is
tokenised by itself and the ids are joined. So the ids of a prompt do not depend on the answer that
follows, and SFT trains behind exactly the ids from which reinforcement learning will sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from posttrain.errors import InputError, Problem
from posttrain.model.chat_templates import PLAIN, read_template
from posttrain.model.encode import encode_piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

_MARKER = "ANSWER"  # stands for an answer where only what the template puts after it matters


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row as the model sees it.

    Example: RenderedRow((5, 3, 12, 9, 1), (0, 0, 0, 1, 1), "7+5=12<eos>")
    """

    token_ids: tuple[int, ...]  # [T]
    trained_mask: tuple[int, ...]  # [T] 1 where the token is something to learn to say
    text: str


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt, ready to be answered. Example: RenderedPrompt((5, 3, 12), "7+5=")"""

    token_ids: tuple[int, ...]  # [P]
    text: str


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token of a row for people to look at."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    trained: bool


def render(
    row: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None
) -> RenderedRow:
    """A `prompt`/`completion` or `messages` row with its loss mask.

    `template` is a shipped name or a .jinja path; by default the tokenizer's own, and plain text
    for prompt/completion rows of a tokenizer without one. Trained are the assistant's turns up to
    and with the end-of-turn token. Raises InputError.
    """
    source = _template_source(row, tokenizer, template)
    pieces = _pieces(_messages(row), tokenizer, source, ask=False)
    stops = set(end_of_turn_ids(tokenizer, template))
    ids: list[int] = []
    mask: list[int] = []
    for piece in pieces:
        piece_ids = encode_piece(tokenizer, piece.text, first=not ids)
        ids += piece_ids
        mask += _trained_part(piece_ids, stops) if piece.trained else [0] * len(piece_ids)
    while mask and not mask[-1]:  # nothing behind the last trained token matters to the loss
        mask.pop()
        ids.pop()
    return RenderedRow(tuple(ids), tuple(mask), "".join(piece.text for piece in pieces))


def render_prompt(
    row: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None
) -> RenderedPrompt:
    """The same ids as `render` gives before the answer, for rows with `prompt` or `messages`.

    Of `messages` that end with the assistant's turn, what stands before it. Raises InputError.
    """
    source = _template_source(row, tokenizer, template)
    pieces = _pieces(_asked(row), tokenizer, source, ask=True)
    ids: list[int] = []
    for piece in pieces:
        ids += encode_piece(tokenizer, piece.text, first=not ids)
    return RenderedPrompt(tuple(ids), "".join(piece.text for piece in pieces))


def render_answer(
    row: Mapping[str, Any], answer: str, tokenizer: Tokenizer, template: str | None = None
) -> tuple[int, ...]:
    """[T] ids of a text as the answer to the row's question, with its end of turn: what stands
    behind the ids of `render_prompt`. Raises InputError.
    """
    # A bare prompt stays one: without a chat template it is plain text, and messages are refused.
    bare = isinstance(row.get("prompt"), str) and not row.get("messages")
    prompt = row["prompt"] if bare else _asked(row)
    whole = render({"prompt": prompt, "completion": answer}, tokenizer, template)
    return whole.token_ids[len(render_prompt({"prompt": prompt}, tokenizer, template).token_ids) :]


def show_row(
    row: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None
) -> list[ShownToken]:
    """The row's tokens, each as text and with whether it is trained, for `posttrain show`; of a row
    without an answer those of its prompt.
    """
    if "completion" in row or "messages" in row:
        rendered = render(row, tokenizer, template)
        token_ids, trained_mask = rendered.token_ids, rendered.trained_mask
    else:
        token_ids = render_prompt(row, tokenizer, template).token_ids
        trained_mask = (0,) * len(token_ids)
    shown: list[ShownToken] = []
    before = ""
    for end, trained in enumerate(trained_mask, start=1):
        # Decoded with what stands before it, as spaces and split characters depend on that.
        ids = list(token_ids[:end])
        text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        shown.append(ShownToken(text[len(before) :], bool(trained)))
        before = text
    return shown


def end_of_turn_ids(tokenizer: Tokenizer, template: str | None = None) -> tuple[int, ...]:
    """Tokens with which an answer ends; generation stops at them. Empty: nothing closes a turn.

    It is the first single-token marker that the template puts behind an answer; without a template
    the tokenizer's end-of-sequence token.
    """
    if template is None and not tokenizer.chat_template:
        template = PLAIN
    source = read_template(template) if template is not None else str(tokenizer.chat_template)
    return _end_of_turn_ids(tokenizer, source)


def require_stops(
    rows: Sequence[RenderedRow], tokenizer: Tokenizer, template: str | None = None, place: str = ""
) -> None:
    """Raise InputError `never-stops` where no row trains an end-of-turn token."""
    stops = set(end_of_turn_ids(tokenizer, template))
    for row in rows:
        if any(m and i in stops for i, m in zip(row.token_ids, row.trained_mask, strict=True)):
            return
    raise InputError(
        Problem(
            "never-stops",
            "no trained token of any row is the end-of-turn token, so the model cannot learn to "
            "stop",
            path=place,
            help="see the marks with `posttrain show`; the template must close the assistant's "
            "turn inside the trained part, with a token that the tokenizer knows",
        )
    )


# -- rows to messages ---------------------------------------------------------------------------


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Any row as messages: a bare prompt is the user's turn, a completion the assistant's."""
    if row.get("messages"):
        return [dict(message) for message in row["messages"]]
    prompt = row.get("prompt")
    if prompt is None:
        raise InputError(
            Problem(
                "bad-row",
                "the row has neither `messages` nor `prompt`, but "
                f"{', '.join(sorted(row)) or 'nothing'}",
                help="data.columns says which is which: {prompt: question, completion: answer}",
            )
        )
    messages = (
        [{"role": "user", "content": prompt}]
        if isinstance(prompt, str)
        else [dict(message) for message in prompt]
    )
    completion = row.get("completion")
    if completion is not None:
        messages.append({"role": "assistant", "content": completion})
    return messages


def _asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The row's messages without the answer that it may have."""
    messages = _messages({key: value for key, value in row.items() if key != "completion"})
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _template_source(row: Mapping[str, Any], tokenizer: Tokenizer, template: str | None) -> str:
    if template is not None:
        return read_template(template)
    if tokenizer.chat_template:
        return str(tokenizer.chat_template)
    if row.get("messages") or not isinstance(row.get("prompt"), str):
        name = tokenizer.name_or_path or "the model"
        raise InputError(
            Problem(
                "no-chat-template",
                f"{name} has no chat template, and the data has `messages`",
                help="chat_template: tulu (shipped: chatml, llama3, plain, tulu), or a path to a "
                ".jinja file, on the `model` stage",
            )
        )
    return read_template(PLAIN)


# -- messages to pieces -------------------------------------------------------------------------


def _pieces(
    messages: list[dict[str, str]], tokenizer: Tokenizer, source: str, *, ask: bool
) -> list[_Piece]:
    """The conversation cut at the assistant's turns. `ask`: the answer is still to come."""

    def text_of(count: int, *, answer_next: bool) -> str:
        return _render_text(tokenizer, source, messages[:count], answer_next)

    pieces: list[_Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = text_of(index, answer_next=True) if index else ""
        after = text_of(index + 1, answer_next=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise InputError(_rewritten(index))
        pieces += [_Piece(before[len(done) :], False), _Piece(after[len(before) :], True)]
        done = after
    if messages[-1]["role"] != "assistant":
        whole = text_of(len(messages), answer_next=ask)
        if not whole.startswith(done):
            raise InputError(_rewritten(len(messages)))
        pieces.append(_Piece(whole[len(done) :], False))
    return [piece for piece in pieces if piece.text]


def _render_text(
    tokenizer: Tokenizer, source: str, messages: list[dict[str, str]], answer_next: bool
) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer_next, chat_template=source
        )
    )


def _rewritten(turn: int) -> Problem:
    return Problem(
        "template-rewrites",
        f"the chat template renders earlier turns differently once turn {turn + 1} follows",
        help="train on one answer per row, or choose another template: chat_template: chatml",
    )


# -- pieces to ids ------------------------------------------------------------------------------


def _trained_part(piece_ids: list[int], stops: set[int]) -> list[int]:
    """1 up to and with the last end-of-turn token; the template's text behind it is not trained."""
    ends = [index for index, token in enumerate(piece_ids) if token in stops]
    trained = ends[-1] + 1 if ends else len(piece_ids)
    return [1] * trained + [0] * (len(piece_ids) - trained)


@lru_cache(maxsize=32)
def _end_of_turn_ids(tokenizer: Tokenizer, source: str) -> tuple[int, ...]:
    probe = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARKER}]
    text = _render_text(tokenizer, source, probe, False)
    closing = text.rpartition(_MARKER)[2]
    markers = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    markers.discard(tokenizer.unk_token_id)  # stands for markers that the tokenizer does not know
    for token in tokenizer(closing, add_special_tokens=False)["input_ids"]:
        if token in markers:
            return (token,)
    return ()
