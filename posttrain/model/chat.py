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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

_MARKER = "ANSWER"  # stands for an answer where only what the template puts after it matters
_ANCHOR = "\n"  # never merges with what follows it


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


def render(row: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None) -> RenderedRow:
    """A `prompt`/`completion` or `messages` row with its loss mask.

    `template` is a shipped name or a .jinja path; by default the tokenizer's own, and plain text for
    prompt/completion rows of a tokenizer without one. Trained are the assistant's turns up to and
    with the end-of-turn token. Raises InputError.
    """
    source = _template_source(row, tokenizer, template)
    pieces = _pieces(_messages(row), tokenizer, source, ask=False)
    stops = set(end_of_turn_ids(tokenizer, template))
    ids: list[int] = []
    mask: list[int] = []
    for piece in pieces:
        piece_ids = _encode(tokenizer, piece.text, first=not ids)
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

    Of `messages` that end with the assistant's turn, what stands before that turn. Raises InputError.
    """
    source = _template_source(row, tokenizer, template)
    messages = _messages({key: value for key, value in row.items() if key != "completion"})
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    pieces = _pieces(messages, tokenizer, source, ask=True)
    ids: list[int] = []
    for piece in pieces:
        ids += _encode(tokenizer, piece.text, first=not ids)
    return RenderedPrompt(tuple(ids), "".join(piece.text for piece in pieces))


def show_row(
    row: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None
) -> list[ShownToken]:
    """The row's tokens, each as text and with whether it is trained, for `posttrain show`."""
    rendered = render(row, tokenizer, template)
    shown: list[ShownToken] = []
    before = ""
    for end, trained in enumerate(rendered.trained_mask, start=1):
        # Decoded with what stands before it, as spaces and split characters depend on that.
        text = tokenizer.decode(rendered.token_ids[:end], clean_up_tokenization_spaces=False)
        shown.append(ShownToken(text[len(before) :], bool(trained)))
        before = text
    return shown


def end_of_turn_ids(tokenizer: Tokenizer, template: str | None = None) -> tuple[int, ...]:
    """Tokens with which an answer ends; generation stops at them. Empty: the template closes nothing.

    The first single-token marker that the template puts behind an answer; the tokenizer's
    end-of-sequence token where there is no template.
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
            "no trained token of any row is the end-of-turn token, so the model cannot learn to stop",
            path=place,
            help="see the marks with `posttrain show`; the template must close the assistant's turn "
            "inside the trained part, with a token that the tokenizer knows",
        )
    )


# -- rows to messages ---------------------------------------------------------------------------


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Any kind of row as messages. A bare prompt is the user's turn, a completion the assistant's."""
    if row.get("messages"):
        return [dict(message) for message in row["messages"]]
    prompt = row.get("prompt")
    if prompt is None:
        raise InputError(
            Problem(
                "bad-row",
                f"the row has neither `messages` nor `prompt`, but {', '.join(sorted(row)) or 'nothing'}",
                help="data.columns says which column is which: {prompt: question, completion: answer}",
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
        return tokenizer.apply_chat_template(
            messages[:count],
            tokenize=False,
            add_generation_prompt=answer_next,
            chat_template=source,
        )

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


def _rewritten(turn: int) -> Problem:
    return Problem(
        "template-rewrites",
        f"the chat template renders earlier turns differently once turn {turn + 1} follows",
        help="train on one answer per row, or choose another template: chat_template: chatml",
    )


# -- pieces to ids ------------------------------------------------------------------------------


def _encode(tokenizer: Tokenizer, text: str, *, first: bool) -> list[int]:
    """Ids of one piece. The first gets the beginning-of-sequence token where the tokenizer has it."""
    adds_bos, adds_space = _habits(tokenizer)
    if not first and adds_space:
        return _encode_joined(tokenizer, text)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return [bos, *ids] if first and adds_bos and ids[:1] != [bos] else ids


def _encode_joined(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of text in the middle, for tokenizers that put a space before whatever they are given."""
    anchor = list(tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(_ANCHOR + text, add_special_tokens=False)["input_ids"])
    if ids[: len(anchor)] == anchor:
        return ids[len(anchor) :]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=16)
def _habits(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """(puts a beginning-of-sequence token first, puts a space first) when given plain text."""
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    return adds_bos, bool(tokens) and tokens[0].startswith("▁")


def _trained_part(piece_ids: list[int], stops: set[int]) -> list[int]:
    """1 up to and with the last end-of-turn token; what the template adds behind is not the model's."""
    ends = [index for index, token in enumerate(piece_ids) if token in stops]
    trained = ends[-1] + 1 if ends else len(piece_ids)
    return [1] * trained + [0] * (len(piece_ids) - trained)


@lru_cache(maxsize=32)
def _end_of_turn_ids(tokenizer: Tokenizer, source: str) -> tuple[int, ...]:
    probe = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARKER}]
    text = tokenizer.apply_chat_template(probe, tokenize=False, chat_template=source)
    closing = text.rpartition(_MARKER)[2]
    markers = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in tokenizer(closing, add_special_tokens=False)["input_ids"]:
        if token in markers:
            return (token,)
    return ()
