"""Finding task files by their text, as the harness's own index finds them."""

from pathlib import Path

import pytest

from posttrain.harness.names import defined_in, families, is_installed, shipped_folder


def test_names_stand_at_the_beginning_of_a_line(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.yaml").write_text("group: many  # of them\ntask:\n  - task: inner\n  - other\n")
    (tmp_path / "deep" / "b.yaml").write_text('tag: t\n"task": "quoted"\n')
    (tmp_path / "deep" / "c.yaml").write_text("task: 'single'\ndataset_path: json\n")
    (tmp_path / "deep" / "d.yml").write_text("task: no_yaml\n")
    found = {name: file.name for name, file in defined_in(tmp_path).items()}
    assert found == {"many": "a.yaml", "quoted": "b.yaml", "single": "c.yaml"}


def test_files_belong_to_the_family_right_below_the_root():
    root = Path("/tasks")
    files = [root / "mmlu/default/a.yaml", root / "arc/b.yaml", root / "mmlu/c.yaml"]
    assert families(files, root) == [root / "mmlu", root / "arc"]


@pytest.mark.skipif(not is_installed(), reason="lm_eval is not installed: posttrain[lm-eval]")
def test_the_names_that_people_ask_for_are_found():
    found = defined_in(shipped_folder())
    assert len(found) > 10_000
    wanted = {
        "mmlu": "mmlu", "mmlu_anatomy": "mmlu", "bbh": "bbh", "truthfulqa_mc2": "truthfulqa",
        "hellaswag": "hellaswag", "arc_challenge": "arc", "winogrande": "winogrande",
    }  # fmt: skip
    files = [found[name] for name in wanted]
    assert [families([each], shipped_folder())[0].name for each in files] == list(wanted.values())
