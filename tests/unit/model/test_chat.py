"""Rendering and loss masks, in literal ids of tokenizers made here."""

import os
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.errors import InputError
from posttrain.model.chat import (
    end_of_turn_ids,
    render,
    render_answer,
    render_prompt,
    require_stops,
    show_row,
)
from posttrain.model.chat_templates import shipped_templates
from posttrain.model.micro import micro_tokenizer

WORDS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant", "system", "hi"]
WORDS += ["yo", "ok", "bye", "\n"]  # ids 0..12


def word_tokenizer(*, bos=False, template=None):
    """One id per word of WORDS; splits at spaces and keeps line ends."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    words.decoder = decoders.Fuse()
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    words.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    if bos:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        chat_template=template,
    )


def test_plain_prompt_and_completion():
    # pad 0, end of turn 1, unknown 2, then the alphabet: prompt ids untrained, answer and 1 trained
    tokenizer = micro_tokenizer()
    row = render({"prompt": "7+5=", "completion": "12"}, tokenizer)
    assert len(row.token_ids) == 7
    assert row.trained_mask == (0, 0, 0, 0, 1, 1, 1)
    assert row.token_ids[-1] == tokenizer.eos_token_id
    assert row.text == "7+5=12<eos>"


def test_plain_for_a_tokenizer_without_template():
    row = render({"prompt": "hi", "completion": "yo ok"}, word_tokenizer())
    assert row.token_ids == (8, 9, 10, 2)
    assert row.trained_mask == (0, 1, 1, 1)


def test_bos_stands_first_once():
    tokenizer = word_tokenizer(bos=True)
    assert render({"prompt": "hi", "completion": "yo"}, tokenizer).token_ids == (1, 8, 9, 2)
    assert render_prompt({"prompt": "hi"}, tokenizer).token_ids == (1, 8)
    # llama3's template writes the token itself
    llama = render_prompt({"prompt": "hi"}, tokenizer, "llama3").token_ids
    assert llama[0] == 1 and llama.count(1) == 1


def test_multi_turn_trains_the_assistant_only():
    messages = [
        {"role": "system", "content": "ok"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "ok"},
    ]
    row = render({"messages": messages}, word_tokenizer(), "chatml")
    # <|im_start|> system \n ok <|im_end|> \n, and so on: 3 7 12 10 4 12
    assert row.token_ids == (
        *(3, 7, 12, 10, 4, 12),
        *(3, 5, 12, 8, 4, 12),
        *(3, 6, 12, 9, 4, 12),
        *(3, 5, 12, 11, 4, 12),
        *(3, 6, 12, 10, 4),  # the line end behind the last turn teaches nothing: left out
    )
    assert row.trained_mask == (
        *(0, 0, 0, 0, 0, 0),
        *(0, 0, 0, 0, 0, 0),
        *(0, 0, 0, 1, 1, 0),  # the answer and its <|im_end|>; not the line end
        *(0, 0, 0, 0, 0, 0),
        *(0, 0, 0, 1, 1),
    )


@pytest.mark.parametrize("template", shipped_templates())
def test_prompt_ids_are_those_that_sft_trains_behind(template):
    tokenizer = word_tokenizer(bos=True)
    row = {"prompt": "hi ok", "completion": "yo"}
    prompt, whole = render_prompt(row, tokenizer, template), render(row, tokenizer, template)
    assert whole.token_ids[: len(prompt.token_ids)] == prompt.token_ids
    assert not any(whole.trained_mask[: len(prompt.token_ids)])
    assert all(whole.trained_mask[len(prompt.token_ids) :])


def test_prompt_of_messages_that_end_with_an_answer():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    prompt = render_prompt({"messages": messages}, word_tokenizer(), "chatml")
    assert prompt.token_ids == (3, 5, 12, 8, 4, 12, 3, 6, 12)
    assert prompt.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_end_of_turn_token_of_each_template():
    tokenizer = word_tokenizer()
    assert end_of_turn_ids(tokenizer) == (2,)
    assert end_of_turn_ids(tokenizer, "plain") == (2,)
    assert end_of_turn_ids(tokenizer, "tulu") == (2,)
    assert end_of_turn_ids(tokenizer, "chatml") == (4,)
    assert end_of_turn_ids(tokenizer, "llama3") == ()  # <|eot_id|> is no token here


def test_never_stops():
    template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"  # closes no turn
    tokenizer = word_tokenizer(template=template)
    row = render({"prompt": "hi", "completion": "yo"}, tokenizer)
    assert row.trained_mask == (0, 1)
    with pytest.raises(InputError) as caught:
        require_stops([row], tokenizer, place="stage sft")
    assert caught.value.problems[0].code == "never-stops"
    assert caught.value.problems[0].message == (
        "no trained token of any row is the end-of-turn token, so the model cannot learn to stop"
    )
    plain = word_tokenizer()
    require_stops([render({"prompt": "hi", "completion": "yo"}, plain)], plain)


def test_messages_without_a_template_are_refused():
    with pytest.raises(InputError) as caught:
        render({"messages": [{"role": "user", "content": "hi"}]}, word_tokenizer())
    problem = caught.value.problems[0]
    assert problem.code == "no-chat-template"
    assert problem.help == (
        "chat_template: tulu (shipped: chatml, llama3, plain, tulu), or a path to a .jinja file, "
        "on the `model` stage"
    )


def test_unknown_template_and_a_file(tmp_path):
    with pytest.raises(InputError, match="no chat template `chatlm`"):
        render({"prompt": "hi", "completion": "yo"}, word_tokenizer(), "chatlm")
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ 'ok ' + m['content'] + eos_token }}{% endfor %}")
    row = render({"prompt": "hi", "completion": "yo"}, word_tokenizer(), str(own))
    assert row.token_ids == (10, 8, 2, 10, 9, 2)


def test_template_that_rewrites_earlier_turns():
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    with pytest.raises(InputError) as caught:
        render({"messages": messages}, word_tokenizer(template=template))
    assert caught.value.problems[0].code == "template-rewrites"


def test_row_without_prompt_names_its_columns():
    with pytest.raises(InputError, match="but answer, question"):
        render({"question": "hi", "answer": "yo"}, micro_tokenizer())


def test_show_row_marks_trained_tokens():
    shown = show_row({"prompt": "7+5=", "completion": "12"}, micro_tokenizer())
    assert [(token.text, token.trained) for token in shown] == [
        *[("7", False), ("+", False), ("5", False), ("=", False)],
        *[("1", True), ("2", True), ("<eos>", True)],
    ]


def test_show_row_of_a_question_alone_has_the_tokens_of_its_prompt():
    shown = show_row({"prompt": "7+5=", "answer": "12"}, micro_tokenizer())
    assert [(token.text, token.trained) for token in shown] == [(c, False) for c in "7+5="]


def test_no_space_creeps_in_between_prompt_and_answer():
    """A tokenizer that puts a space before whatever it is given (Llama 2's habit)."""
    models_dir = Path(os.environ.get("POSTTRAIN_MODELS", "../shared/models"))
    if not (models_dir / "stories260K").is_dir():
        pytest.skip("no stories260K model here: set POSTTRAIN_MODELS")
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "stories260K")
    row = render({"prompt": "Once upon a time", "completion": ", there was a cat."}, tokenizer)
    assert row.token_ids == (1, 403, 407, 261, 378, 432, 383, 286, 261, 280, 294, 426, 2)
    assert row.trained_mask == (0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
    assert tokenizer.decode(row.token_ids, skip_special_tokens=True) == (
        "Once upon a time, there was a cat."
    )


def test_an_answer_s_ids_are_those_behind_the_prompt_s():
    tokenizer = word_tokenizer(bos=True)
    row = {"prompt": "hi", "completion": "bye", "answer": "ok"}
    assert render_answer(row, "yo ok", tokenizer) == (9, 10, 2)
    assert render_answer(row, "yo", tokenizer, "chatml") == (9, 4)


def test_an_answer_to_messages_takes_the_place_of_theirs():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "bye"}]
    for given in (messages, messages[:1]):
        assert render_answer({"messages": given}, "yo", word_tokenizer(), "chatml") == (9, 4)
    assert render_answer({"prompt": messages[:1]}, "yo", word_tokenizer(), "chatml") == (9, 4)
