"""A tokenizer of one token a character, and two small tasks in files of the user's own."""

import json

import pytest

CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: choice.jsonl}, cache_dir: %s}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
EXACT = """\
task: tiny_exact
dataset_path: json
dataset_kwargs: {data_files: {test: exact.jsonl}, cache_dir: %s}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [";"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOICES = [
    {"question": "copy ab=", "choices": ["ab", "c"], "answer": 0},
    {"question": "copy b=", "choices": ["b", "c"], "answer": 0},
    {"question": "copy ac=", "choices": ["d", "ac"], "answer": 1},
    {"question": "copy d=", "choices": ["bb", "d"], "answer": 1},
]
ANSWERS = [
    {"question": "copy ab=", "answer": "ab"},
    {"question": "copy cd=", "answer": "cd"},
    {"question": "copy ef=", "answer": "ef"},
]


@pytest.fixture(scope="session")
def harness_folder(tmp_path_factory):
    """A folder with the tasks `tiny_choice` and `tiny_exact`."""
    folder = tmp_path_factory.mktemp("tasks")
    cache = tmp_path_factory.mktemp("cache")
    (folder / "choice.yaml").write_text(CHOICE % cache)
    (folder / "exact.yaml").write_text(EXACT % cache)
    lines = "".join(json.dumps(row) + "\n" for row in CHOICES)
    (folder / "choice.jsonl").write_text(lines)
    (folder / "exact.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ANSWERS))
    return folder


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory):
    from posttrain.model.micro import build_micro

    folder = tmp_path_factory.mktemp("models") / "micro"
    build_micro(folder, seed=0)
    return str(folder)
