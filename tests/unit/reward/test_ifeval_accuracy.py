"""IFEval's four numbers, summed from the parts of scores; and every real row of the benchmark."""

import gzip
import json
import os
from pathlib import Path

import pytest

from posttrain.reward.constraints.following import followed
from posttrain.reward.constraints.rows import constraints_of
from posttrain.reward.ifeval_accuracy import IfevalAccuracy, accuracy, accuracy_of, counts

ROWS = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data")) / "ifeval" / "test.jsonl.gz"

COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
BOTH = {
    "instruction_id_list": ["punctuation:no_comma", "startend:quotation", "punctuation:no_comma"],
    "kwargs": [{}, {}, {}],
}


def test_the_four_numbers():
    # strict: 0 of 1, 2 of 3, 3 of 3; loose: 1 of 1, 2 of 3, 3 of 3
    answers = ["Sure, here:\nx", "a b", '"a"']
    assert accuracy_of([COMMA, BOTH, BOTH], answers) == IfevalAccuracy(
        prompt_strict=1 / 3,
        prompt_loose=2 / 3,
        instruction_strict=5 / 7,
        instruction_loose=6 / 7,
        prompts=3,
        instructions=7,
    )


def test_they_are_sums_of_parts():
    assert counts(followed(BOTH, "a b")) == {
        "asked": 3.0,
        "followed/strict": 2.0,
        "followed/loose": 2.0,
    }
    parts = [{"asked": 2.0, "followed/strict": 1.0, "followed/loose": 2.0, "ifeval/x": 1.0}]
    assert accuracy(parts) == IfevalAccuracy(0.0, 1.0, 0.5, 1.0, prompts=1, instructions=2)


def test_no_answers_have_no_accuracy():
    with pytest.raises(ValueError, match="no answers"):
        accuracy([])


# An answer that follows one instruction, made from its settings.
FOLLOWING = {
    "keywords:existence": lambda s: " ".join(s["keywords"]),
    "keywords:frequency": lambda s: (
        "so " + (s["keyword"] + " ") * _enough(s["relation"], s["frequency"])
    ),
    "keywords:forbidden_words": lambda s: "x" + "x".join(s["forbidden_words"]) + "x",
    "keywords:letter_frequency": lambda s: (
        "-" + s["letter"] * _enough(s["let_relation"], s["let_frequency"])
    ),
    "language:response_language": lambda s: SENTENCES[s["language"]],
    "length_constraints:number_paragraphs": lambda s: "\n***\n".join("p" * s["num_paragraphs"]),
    "length_constraints:number_words": lambda s: "w " * _enough(s["relation"], s["num_words"]),
    "length_constraints:number_sentences": lambda s: (
        "It is so. " * _enough(s["relation"], s["num_sentences"])
    ),
    "length_constraints:nth_paragraph_first_word": lambda s: "\n\n".join(
        f"{s['first_word']} and more" if n == s["nth_paragraph"] else "other"
        for n in range(1, s["num_paragraphs"] + 1)
    ),
    "detectable_content:postscript": lambda s: f"Text.\n\n{s['postscript_marker']} More.",
    "detectable_content:number_placeholders": lambda s: "[name] " * s["num_placeholders"],
    "detectable_format:number_bullet_lists": lambda s: "Intro:\n" + "* point\n" * s["num_bullets"],
    "detectable_format:title": lambda s: "<<A title>>\nText",
    "detectable_format:constrained_response": lambda s: "My answer is no.",
    "detectable_format:number_highlighted_sections": lambda s: "*here* " * s["num_highlights"],
    "detectable_format:multiple_sections": lambda s: "\n".join(
        f"{s['section_spliter']} {n}\ntext" for n in range(1, s["num_sections"] + 1)
    ),
    "detectable_format:json_format": lambda s: '```json\n{"a": ["b"]}\n```',
    "combination:repeat_prompt": lambda s: s["prompt_to_repeat"] + "\nAnswer.",
    "combination:two_responses": lambda s: "One.\n******\nTwo.",
    "change_case:english_capital": lambda s: "THIS IS A SENTENCE ABOUT THE WEATHER.",
    "change_case:english_lowercase": lambda s: "this is a sentence about the weather.",
    "change_case:capital_word_frequency": lambda s: (
        "so " + "NASA " * _enough(s["capital_relation"], s["capital_frequency"])
    ),
    "startend:end_checker": lambda s: f"Text. {s['end_phrase']}",
    "startend:quotation": lambda s: '"Text."',
    "punctuation:no_comma": lambda s: "Text; more.",
}

SENTENCES = {
    "ar": "الطقس جميل اليوم ونحن ذاهبون إلى الحديقة",
    "bg": "Днес времето е хубаво и ние отиваме в парка.",  # noqa: RUF001
    "bn": "আজ আবহাওয়া সুন্দর এবং আমরা পার্কে যাচ্ছি",
    "de": "Das Wetter ist heute schön und wir gehen in den Park.",
    "fi": "Sää on tänään kaunis ja me menemme puistoon.",
    "gu": "આજે હવામાન સુંદર છે અને અમે બગીચામાં જઈએ છીએ",
    "hi": "आज मौसम अच्छा है और हम बगीचे में जा रहे हैं",
    "kn": "ಇಂದು ಹವಾಮಾನ ಚೆನ್ನಾಗಿದೆ ಮತ್ತು ನಾವು ಉದ್ಯಾನಕ್ಕೆ ಹೋಗುತ್ತಿದ್ದೇವೆ",
    "ko": "오늘은 날씨가 좋아서 우리는 공원에 갑니다",
    "mr": "आज हवामान छान आहे आणि आम्ही बागेत जात आहोत",
    "ne": "आज मौसम राम्रो छ र हामी बगैंचामा जाँदैछौं",
    "ru": "Сегодня хорошая погода, и мы идём в парк, потому что светит солнце.",
    "sw": "Hali ya hewa ni nzuri leo na sisi tunakwenda kwenye bustani.",
    "ta": "இன்று வானிலை நன்றாக உள்ளது நாங்கள் பூங்காவிற்கு செல்கிறோம்",
    "te": "ఈ రోజు వాతావరణం బాగుంది మేము పార్కుకు వెళ్తున్నాము",
    "th": "วันนี้อากาศดีและเราจะไปสวนสาธารณะ",
    "ur": "آج موسم اچھا ہے اور ہم باغ میں جا رہے ہیں",
    "vi": "Hôm nay thời tiết đẹp và chúng tôi đi đến công viên.",
}


def _enough(relation, threshold):
    return threshold if relation == "at least" else threshold - 1


@pytest.fixture(scope="module")
def rows():
    if not ROWS.exists():
        pytest.skip("needs the IFEval rows (POSTTRAIN_DATA)")
    with gzip.open(ROWS, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_every_real_instruction_has_an_answer_that_follows_it_and_bears_any_text(rows):
    seen = set()
    for row in rows:
        for constraint in constraints_of(row):
            seen.add(constraint.id)
            answer = FOLLOWING[constraint.id](constraint.settings)
            assert constraint.holds(answer), (row["key"], constraint.id, answer)
            for text in (".", " ", row["prompt"], "Some *text*, [a] <<b>>\n\n" * 20):
                assert constraint.holds(text) in (True, False)
    assert seen == set(FOLLOWING)


def test_repeating_the_prompt_follows_some_instructions(rows):
    found = accuracy_of(rows, [row["prompt"] for row in rows])
    assert (found.prompts, found.instructions) == (len(rows), sum(map(_num_asked, rows)))
    assert 0 < found.prompt_strict <= found.prompt_loose < 0.5
    assert found.prompt_strict < found.instruction_strict <= found.instruction_loose < 0.5


def _num_asked(row):
    return len(row["instruction_id_list"])
