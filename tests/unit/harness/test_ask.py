"""Tasks of the harness, asked of engines whose every number is known."""

import json
import math

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed: posttrain[lm-eval]")

from posttrain.config.suites import Suite
from posttrain.errors import InputError, StageFailed
from posttrain.harness.ask import Asking, ask, look
from posttrain.harness.engine_model import sampling_settings, unknown_settings
from posttrain.stages.preflight import Origin, PreflightRequest, inspect
from posttrain.stages.statistics import share
from posttrain.types import Rollout

CHOICE, EXACT = "lm_eval/tiny_choice", "lm_eval/tiny_exact"
LETTERS = {"a": -1.0, "b": -2.0, "c": -2.5, "d": -4.5}


class Engine:
    """Finds letters as likely as LETTERS says; answers from a table, a token at a time."""

    def __init__(self, tokenizer, says=None):
        self.tokenizer = tokenizer
        self.says = says or {}
        self.asked = []

    def token_logprobs(self, sequences):
        decode = self.tokenizer.convert_ids_to_tokens
        return [[LETTERS[letter] for letter in decode(list(tokens))] for _, tokens in sequences]

    def generate_many(self, prompts, sampling):
        found = []
        for each in prompts:
            text = self.tokenizer.decode(list(each.token_ids))
            question, _, given = text.partition("=")
            whole = self.says[question + "="][len(given) :]
            said = whole[: sampling.max_new_tokens]
            ids = tuple(self.tokenizer(said, add_special_tokens=False)["input_ids"])
            finish = "length" if len(said) < len(whole) else "stop"
            flat = (0,) * len(ids)
            found.append(Rollout(each.id, 0, each.token_ids, ids, flat, flat, flat, "", finish))
        self.asked.append((len(prompts), sampling.max_new_tokens, sampling.temperature))
        return found


@pytest.fixture(scope="module")
def tokenizer(micro_folder):
    from posttrain.model.load import load_tokenizer

    return load_tokenizer(micro_folder)


@pytest.fixture
def asking(micro_folder, harness_folder):
    """`asking(CHOICE, prompts_per_task=2, metrics={...})`"""

    def make(*tasks, folder=harness_folder, prompts_per_task=256, length=128, **settings):
        suite = Suite(
            gain=list(tasks),
            prompts_per_task=prompts_per_task,
            lm_eval={"tasks": str(folder), **settings},
        )
        return Asking(micro_folder, suite, length, seed=7)

    return make


def refusal(asking):
    with pytest.raises(InputError) as caught:
        look(asking)
    return [problem.render() for problem in caught.value.problems]


def test_a_choice_is_the_likeliest_one(asking, tokenizer):
    found = ask(Engine(tokenizer), asking(CHOICE), 2)[CHOICE]
    # ab -3.0, c -2.5: wrong. b -2.0, c -2.5: right. d -4.5, ac -3.5: right. bb -4.0, d -4.5: wrong.
    assert found.passed == (0.0, 1.0, 1.0, 0.0)
    assert (found.metric, found.unscored, found.cut_share) == ("acc,none", 0, 0.0)
    assert found.answers == (
        {"prompt": "copy ab=", "completion": "c", "score": 0.0},
        {"prompt": "copy b=", "completion": "b", "score": 1.0},
    )


def test_another_of_its_numbers_can_count(asking, tokenizer):
    found = ask(Engine(tokenizer), asking(CHOICE, metrics={"tiny_choice": "acc_norm"}), 0)[CHOICE]
    # By letter: ab -1.5, c -2.5: right. b -2.0, c -2.5: right. d -4.5, ac -1.75: right.
    # bb -2.0, d -4.5: wrong.
    assert (found.metric, found.passed) == ("acc_norm,none", (1.0, 1.0, 1.0, 0.0))


def test_the_value_and_its_error_are_the_harness_s(asking, tokenizer):
    from lm_eval.evaluator import evaluate

    from posttrain.harness.engine_model import EngineModel
    from posttrain.harness.load import load_tasks

    task = load_tasks(["tiny_choice"], asking(CHOICE).suite.lm_eval)["tiny_choice"]
    model = EngineModel(Engine(tokenizer), tokenizer, 128, 7, wants_greedy=False)
    told = evaluate(lm=model, task_dict={"tasks": dict(task.parts)})["results"]["tiny_choice"]
    ours = share(ask(Engine(tokenizer), asking(CHOICE), 0)[CHOICE].passed)
    assert told["acc,none"] == ours.value == 0.5
    # Of 0, 1, 1, 0 the sample variance is 1/3, of their mean 1/12.
    assert told["acc_stderr,none"] == pytest.approx(math.sqrt(1 / 12))


def test_an_answer_ends_at_its_stop_and_is_compared(asking, tokenizer):
    says = {"copy ab=": "ab;and more", "copy cd=": "cd", "copy ef=": "ef and more than eight"}
    engine = Engine(tokenizer, says)
    found = ask(engine, asking(EXACT), 3)[EXACT]
    assert found.passed == (1.0, 1.0, 0.0)
    assert [each["completion"] for each in found.answers] == ["ab", "cd", "ef and m"]
    assert engine.asked == [(3, 8, 0.0)]


def test_what_engines_do_not_have_matters_only_where_it_changes_answers():
    assert unknown_settings({"until": ["x"], "max_new_tokens": 9}) == []
    assert unknown_settings({"do_sample": False, "top_p": 0.9, "num_beams": 1}) == []
    assert unknown_settings({"do_sample": True, "top_p": 0.9, "num_beams": 1}) == ["top_p"]
    assert unknown_settings({"temperature": 0.8, "top_p": 1.0, "top_k": 5}) == ["top_k"]
    assert unknown_settings({"num_beams": 10, "stop": "x"}) == ["num_beams", "stop"]


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.2}, 0.2),
    ],
    ids=str,
)
def test_a_task_is_greedy_unless_it_samples(settings, temperature):
    assert sampling_settings(settings)["temperature"] == temperature


def test_long_answers_grow_in_rounds(asking, tokenizer, harness_folder, tmp_path):
    text = (harness_folder / "exact.yaml").read_text().replace("toks: 8", "toks: 200")
    (tmp_path / "exact.yaml").write_text(text)
    rows = (harness_folder / "exact.jsonl").read_text()
    (tmp_path / "exact.jsonl").write_text(rows)
    says = {"copy ab=": "ab;" + "x" * 300, "copy cd=": "cd" + "x" * 300, "copy ef=": "e" * 70 + ";"}
    engine = Engine(tokenizer, says)
    found = ask(engine, asking(EXACT, folder=tmp_path, length=512), 3)[EXACT]
    # The first is over after 64 tokens, the third in the second round, the second at its 200th.
    assert engine.asked == [(3, 64, 0.0), (2, 128, 0.0), (1, 8, 0.0)]
    assert [len(each["completion"]) for each in found.answers] == [2, 200, 70]


def test_fewer_questions_are_the_same_for_every_model(asking, tokenizer):
    first = ask(Engine(tokenizer), asking(CHOICE, prompts_per_task=2), 9)[CHOICE]
    again = ask(Engine(tokenizer), asking(CHOICE, prompts_per_task=2), 9)[CHOICE]
    assert len(first.passed) == 2
    assert first.answers == again.answers


def test_long_prompts_lose_their_beginning_and_are_counted(asking, tokenizer):
    found = ask(Engine(tokenizer), asking(CHOICE, length=10), 0)[CHOICE]
    # Ten tokens, one kept free: `copy ab=` has eight, with `ab` ten: cut, and so are `copy ac=`
    # with `ac`. `copy b=` and `copy d=` have seven. 2 of 8.
    assert found.cut_share == 2 / 8
    assert found.passed == (0.0, 1.0, 1.0, 0.0)


GROUP = """\
group: tiny
task: [tiny_choice, tiny_more]
aggregate_metric_list: [{metric: acc, weight_by_size: %s}]
"""


@pytest.fixture
def grouped(harness_folder, tmp_path):
    """A folder with a group: `tiny_choice`, and `tiny_more` with the last two of its questions."""

    def make(by_size):
        choice = (harness_folder / "choice.yaml").read_text()
        rows = (harness_folder / "choice.jsonl").read_text()
        (tmp_path / "choice.yaml").write_text(choice)
        (tmp_path / "choice.jsonl").write_text(rows)
        more = choice.replace("tiny_choice", "tiny_more").replace("choice.jsonl", "more.jsonl")
        (tmp_path / "more.yaml").write_text(more)
        (tmp_path / "more.jsonl").write_text("\n".join(rows.splitlines()[2:]) + "\n")
        (tmp_path / "group.yaml").write_text(GROUP % by_size)
        return tmp_path

    return make


def test_a_group_is_asked_as_one_task(asking, tokenizer, grouped):
    found = ask(Engine(tokenizer), asking("lm_eval/tiny", folder=grouped("true")), 0)
    assert found["lm_eval/tiny"].passed == (0.0, 1.0, 1.0, 0.0, 1.0, 0.0)  # 4 and 2: 3 of 6


def test_a_group_that_weighs_its_parts_alike_asks_as_many_of_each(asking, tokenizer, grouped):
    found = ask(Engine(tokenizer), asking("lm_eval/tiny", folder=grouped("false")), 0)
    assert len(found["lm_eval/tiny"].passed) == 4  # two and two


def test_greedy_answers_are_looked_up_where_a_number_needs_them(
    asking, tokenizer, harness_folder, tmp_path
):
    text = (harness_folder / "choice.yaml").read_text()
    text = text.replace("metric: acc_norm", "metric: exact_match")
    (tmp_path / "choice.yaml").write_text(text)
    (tmp_path / "choice.jsonl").write_text((harness_folder / "choice.jsonl").read_text())
    says = {"copy ab=": "ab", "copy b=": "c", "copy ac=": "abc", "copy d=": "d"}
    engine = Engine(tokenizer, says)
    exact = asking(CHOICE, folder=tmp_path, metrics={"tiny_choice": "exact_match"})
    # The right choices are ab, b, ac, d.
    assert ask(engine, exact, 0)[CHOICE].passed == (1.0, 0.0, 0.0, 1.0)
    # Contexts whose longest choice has one letter, and two.
    assert engine.asked == [(1, 1, 0.0), (3, 2, 0.0)]


def test_looking_asks_no_model_and_finds_nothing_wrong(asking):
    assert look(asking(CHOICE, EXACT)) is None


def test_all_that_is_wrong_is_said_before_the_start(asking):
    suite = asking("lm_eval/tiny_choise", CHOICE, metrics={"tiny_choice": "f1"}).suite
    request = PreflightRequest(
        "",
        "suite",
        Origin(None, "micro", None),
        suite=suite.model_dump(),
        place="(suite abilities)",
    )
    assert [problem.render() for problem in inspect([request])] == [
        "error[unknown-task] (suite abilities): the lm-evaluation-harness has no task or group "
        "`tiny_choise`\n  help: did you mean `lm_eval/tiny_choice`?",
        "error[harness-task] (suite abilities): `lm_eval/tiny_choice` has no number `f1`\n"
        "  help: lm_eval.metrics: {tiny_choice: acc or acc_norm}",
    ]


def test_names_that_there_are_not(asking):
    assert refusal(asking("lm_eval/tiny_choise", "lm_eval/helaswag")) == [
        "error[unknown-task]: the lm-evaluation-harness has no task or group `tiny_choise`\n"
        "  help: did you mean `lm_eval/tiny_choice`?",
        "error[unknown-task]: the lm-evaluation-harness has no task or group `helaswag`\n"
        "  help: did you mean `lm_eval/hellaswag`?",
    ]


def test_questions_out_of_reach(asking, monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    assert refusal(asking("lm_eval/arc_easy")) == [
        "error[hub-unreachable]: the questions of `lm_eval/arc_easy` cannot be fetched (Couldn't "
        "reach 'allenai/ai2_arc' on the Hub (OfflineModeIsEnabled))\n"
        "  help: connect to the hub once; or a copy of its file with local data, in `lm_eval.tasks`"
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "higher_is_better: true",
            "higher_is_better: false",
            "none of its numbers is a mean that is better when higher: exact_match\n"
            "  help: another task: gain and tax are points of such means",
        ),
        (
            "aggregation: mean",
            "aggregation: median",
            "none of its numbers is a mean that is better when higher: exact_match\n"
            "  help: another task: gain and tax are points of such means",
        ),
        (
            "do_sample: false",
            "do_sample: true, temperature: 0.6, top_p: 0.9",
            "samples with top_p, which engines do not know here\n"
            "  help: a copy of its file without them, in `lm_eval.tasks`",
        ),
        (
            "test_split: test",
            "test_split: test\nunsafe_code: true",
            "runs programs that models write, outside of any sandbox\n"
            "  help: a task of your own with a reward that runs code: `tests`",
        ),
        (
            "exact.jsonl",
            "absent.jsonl",
            "does not load: FileNotFoundError: ",
        ),
        (
            '"{{answer}}"',
            "!function broken.target",
            "does not load: ImportError: Cannot import module 'broken'",
        ),
    ],
    ids=["direction", "median", "sampling", "programs", "file", "function"],
)
def test_tasks_that_a_suite_cannot_ask(asking, harness_folder, tmp_path, old, new, said):
    text = (harness_folder / "exact.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "exact.yaml").write_text(text.replace(old, new))
    (tmp_path / "exact.jsonl").write_text((harness_folder / "exact.jsonl").read_text())
    (problem,) = refusal(asking(EXACT, folder=tmp_path))
    assert problem.startswith(f"error[harness-task]: `{EXACT}` {said}")


def test_a_number_that_there_is_not(asking):
    assert refusal(asking(CHOICE, metrics={"tiny_choice": "f1"})) == [
        "error[harness-task]: `lm_eval/tiny_choice` has no number `f1`\n"
        "  help: lm_eval.metrics: {tiny_choice: acc or acc_norm}"
    ]
    assert refusal(asking(CHOICE, metrics={"tiny_choice": "acc,strict"})) == [
        "error[harness-task]: `lm_eval/tiny_choice` has no filter `strict`\n"
        "  help: its filters are none: lm_eval.metrics: {tiny_choice: 'acc,none'}"
    ]


def test_numbers_above_one_are_no_share(asking, tokenizer, harness_folder, tmp_path):
    text = (harness_folder / "exact.yaml").read_text()
    text += "process_results: !function scaled.per_cent\n"
    (tmp_path / "exact.yaml").write_text(text)
    (tmp_path / "scaled.py").write_text(
        "def per_cent(doc, results):\n"
        "    return {'exact_match': 100.0 * (results[0] == doc['answer'])}\n"
    )
    (tmp_path / "exact.jsonl").write_text(json.dumps({"question": "copy a=", "answer": "a"}) + "\n")
    with pytest.raises(StageFailed, match="counts `exact_match` from 0 to more than 1: 100"):
        ask(Engine(tokenizer, {"copy a=": "a"}), asking(EXACT, folder=tmp_path), 0)


def test_through_the_chat_template(asking, tokenizer):
    class Listener(Engine):
        def token_logprobs(self, sequences):
            self.contexts = [self.tokenizer.decode(list(context)) for context, _ in sequences]
            return super().token_logprobs(sequences)

    engine = Listener(tokenizer)
    ask(engine, asking(CHOICE, chat_template=True), 0)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "copy ab="}], tokenize=False, add_generation_prompt=True
    )
    assert engine.contexts[0] == said


@pytest.mark.slow
def test_an_engine_says_what_the_harness_s_own_model_class_says(micro_folder, tokenizer):
    """Log-likelihoods and greedy answers of the micro model, ours and the harness's."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from posttrain.harness.engine_model import EngineModel
    from posttrain.model.load import load_model

    network = load_model(micro_folder, attention="sdpa")

    class Torch:
        @torch.no_grad()
        def token_logprobs(self, sequences):
            found = []
            for context, tokens in sequences:
                logits = network(torch.tensor([[*context, *tokens]])).logits[0]
                logprobs = logits.float().log_softmax(-1)[len(context) - 1 : -1]
                found.append(
                    [row[token].item() for row, token in zip(logprobs, tokens, strict=True)]
                )
            return found

        @torch.no_grad()
        def generate_many(self, prompts, sampling):
            found = []
            for each in prompts:
                ids = list(each.token_ids)
                for _ in range(sampling.max_new_tokens):
                    ids.append(network(torch.tensor([ids])).logits[0, -1].argmax().item())
                    if ids[-1] == tokenizer.eos_token_id:
                        break
                new = tuple(ids[len(each.token_ids) :])
                finish = "stop" if new[-1] == tokenizer.eos_token_id else "length"
                flat = (0,) * len(new)
                found.append(Rollout(each.id, 0, each.token_ids, new, flat, flat, flat, "", finish))
            return found

    def requests(kind, *arguments):
        return [Instance(kind, {}, each, 0, metadata=("t", 0, 1)) for each in arguments]

    ours = EngineModel(Torch(), tokenizer, 128, 7, wants_greedy=True)
    theirs = HFLM(pretrained=micro_folder, device="cpu", dtype="float32", batch_size=1)
    pairs = [("copy ab=", "ab"), ("sort 312= ", "123"), ("", "copy"), ("copy ab=", "z")]
    told = ours.loglikelihood(requests("loglikelihood", *pairs))
    wanted = theirs.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert [each[0] for each in told] == pytest.approx([each[0] for each in wanted], abs=1e-4)
    assert [each[1] for each in told] == [each[1] for each in wanted] == [False] * 3 + [True]
    settings = {"until": [">"], "max_gen_toks": 12, "do_sample": False}
    asked = [(text, settings) for text in ("copy ab=", "copy cd=", "count abc:")]
    told = ours.generate_until(requests("generate_until", *asked))
    assert told == theirs.generate_until(requests("generate_until", *asked), disable_tqdm=True)
    assert any(told)
