"""IFEval's checkers against the published ones (the package `if-verifiable`): every kind on many answers of our own."""

from __future__ import annotations

import json

import pytest
from _harness_envs import logged

from llmanac.core.errors import DataError
from llmanac.evaluate._benchmark_rows import items_of
from llmanac.evaluate._instructions import KINDS, followed, instructions_of, language_of
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.load import load_benchmark

ASKED = "Write a short note about the harbour. Keep it simple"
ANSWERS = [
    "The harbour is calm today. Boats come in before noon and leave at night.",
    "My answer is yes.", "my answer is maybe.", "I would say: My answer is no. It rained.",
    "no capitals here. the boats are in the harbour and the sea is calm for all of us.",
    "THE BOATS ARE IN THE HARBOUR AND THE SEA IS CALM FOR ALL OF US.",
    "* first point\n* second point\n* third point", "- one\n- two", "Points:\n  * a\n  - b\n** not a point **\n*c",
    "Look at *this* and *that* and **these words** too.", "**Bold** and ** ** and * * and *open", "A *b c* d *e\nf* g",
    "<<A note about boats>>\nThe boats are red.", "<< >> nothing", "Title: <<x>> and <<  y >>",
    '{"a": [1, 2, {"b": null}]}', '```json\n{"a": 1}\n```', "```\n[1, 2]\n```", "{'a': 1}", "```JSON\n3```", "true",
    '"The harbour is calm today."', '"', '""', ' "Quoted at both ends, with spaces." ', '"Only one end.',
    "Dear [name], come to [place] at [time].", "[] and [a [b] c]", "No brackets",
    "The boats left.\n\nP.S. Bring a coat.", "The boats left.\np.p.s. and a hat", "P. P. S. none", "P.S none", "PS: x",
    "SECTION 1\nBoats\nSECTION 2\nNets\nSECTION 3\nRopes", "Section 1. a Section 2. b", "Section one",
    "Day 1 x Day 22 y",
    "First part.\n***\nSecond part.\n***\nThird part.", "***\nOnly one\n***", "a *** b *** *** c", "***",
    "x\n\n***\n\ny",
    "Answer one.\n******\nAnswer two.", "Same.******Same.", "******a******b", "a******b******c", "a************b",
    ASKED + "\n\nThe harbour is calm.", ASKED.upper() + "! Boats.", "First: " + ASKED, ASKED[:-1],
    "The boats left. Is there anything else I can help with?", 'He asked, "Is there anything else I can help with?"',
    "Is there anything else I can help with? Yes.", "that is all.", "That is all. ",
    "Boats boats BOATS. A boat sails. The boathouse is old.", "The net and the nets, the internet.",
    "sea, sea; sea! SEA",
    "Harbour one is north.\n\nBoats are there.\n\nWeather is fine.", "one\n\ntwo\n\nthree\n\nfour",
    "Para one\n\n\n\n'Weather, it is.\n\nend", "\"Weather\" is first.\n\nx\n\nlast", "weather",
    "ONE TWO and THREE. A NATO ship, DON'T touch it, AT&T. U.S. flags", "Not ONE", "ABC-DEF GHI_J K1", "I AM. I'LL GO.",
    "One. Two! Three? Four. Five. Six", "Mr. Grey met Dr. Hill at 3.5 km. They sailed.", "Wait... what? No!! Yes.",
    "Really?! \"Yes.\" He left. (Quietly.) Done", "no end here", "A line\nanother line\nand a third",
    "e.g. nets, i.e. ropes.",
    "word " * 30, "word, " * 12, "a b c d e f g h i j", "x-y z_w 10,000 it's", "", " \n ", ",", "no comma", "1,000",
    "Zebra zoo, zigzag: z z Z.", "#tags and #more #tags", "aaaa", "The Great Ship\nThe rest is written here.\nBye.",
    "Intro line\n{\"a\": 1}", "*emph* start\nno commas at all here\nlast, line",
    "Sure, here it is:\nthe harbour is calm",
    "the old keeper of the light said that the boats would come back before the tide did.",
    "there were forty boats in the harbour, and all of them had left by the end of the day.",
    "it was cold\nbut the sea was calm\nand nobody in the town asked why the names were written down.",
    "The old keeper of the light said that the BOATS would come back before the tide did.",
    "IT WAS COLD, BUT THE SEA WAS CALM AND NOBODY IN THE TOWN ASKED WHY THE NAMES WERE WRITTEN DOWN.",
    "WHEN THE TIDE WENT OUT THE CHILDREN WALKED OVER THE SAND AND LOOKED FOR WHAT THE SEA HAD LEFT THERE.",
    "le port est calme aujourd'hui et les bateaux sont dans la baie avec des filets pour la nuit.",
    "Le port est calme aujourd'hui et les bateaux sont dans la baie avec des filets.",
    "Der Hafen ist heute ruhig und die Boote sind in der Bucht mit den Netzen.",
    "El puerto está tranquilo hoy y los barcos están en la bahía con las redes.",
    "Гавань сегодня спокойна, и лодки стоят в бухте, как это было всегда.",
    "港は今日静かです。船は湾にいます。", "오늘 항구는 조용하고 배들은 만에 있습니다.",
    "आज बंदरगाह शांत है और नावें खाड़ी में हैं।",
    "O porto está calmo hoje e os barcos não estão na baía, mas também há redes.",
    "Il porto è calmo oggi e le barche sono nella baia con gli altri uomini.",
]  # fmt: skip
FIELDS = {
    "keywords:existence": [{"keywords": ["harbour", "boat"]}, {"keywords": ["sea"]}, {"keywords": ["b.at"]}],
    "keywords:frequency": [{"keyword": "boat", "frequency": n, "relation": r} for n in (1, 3) for r in
                           ("less than", "at least")],
    "keywords:forbidden_words": [{"forbidden_words": ["boats", "net"]}, {"forbidden_words": ["sea"]}],
    "keywords:letter_frequency": [{"letter": x, "let_frequency": n, "let_relation": r} for x in "zA" for n in (1, 6)
                                  for r in ("less than", "at least")],
    "language:response_language": [{"language": code} for code in ["en", "fr", "de", "es", "ru", "ja", "ko", "hi",
    "pt", "it"]],
    "length_constraints:number_sentences": [{"num_sentences": n, "relation": r} for n in (1, 2, 4) for r in
                                            ("less than", "at least")],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:number_words": [{"num_words": n, "relation": r} for n in (3, 12, 30) for r in
                                        ("less than", "at least")],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 3, "nth_paragraph": 3, "first_word": "weather"},
        {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "Harbour"},
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "weather"},
        {"num_paragraphs": 4, "nth_paragraph": 2, "first_word": "two"}],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2, 3)],
    "detectable_content:postscript": [{"postscript_marker": m} for m in ("P.S.", "P.P.S", "PS:")],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 2, 4)],
    "detectable_format:multiple_sections": [{"section_spliter": s, "num_sections": n} for s in ("SECTION", "Section ",
                                            "Day") for n in (1, 2, 3)],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": ASKED}],
    "startend:end_checker": [{"end_phrase": "Is there anything else I can help with?"},
    {"end_phrase": "That is all. "}],
    "change_case:capital_word_frequency": [{"capital_frequency": n, "capital_relation": r} for n in (1, 3, 5) for r in
                                           ("less than", "at least")],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
    "startend:quotation": [{}],
}  # fmt: skip
# where language is told, only texts of which theirs is sure: its guesses on a few words are drawn
SURE = [text for text in ANSWERS if (len(text) > 60 or (text and not text.isascii())) and not text.startswith("word")]
CASES = [
    (name, fields, text) for name, every in FIELDS.items() for fields in every
    for text in (SURE if name.startswith(("language:", "change_case:english")) else ANSWERS)
]  # fmt: skip


def test_every_kind_is_tried():
    assert set(FIELDS) == set(KINDS) and len(KINDS) == 25
    counts = {name: sum(case[0] == name for case in CASES) for name in KINDS}
    assert min(counts.values()) >= 20
    found = {name: set() for name in KINDS}
    for name, fields, text in CASES:
        found[name].add(followed(row_of(name, fields), text)[0][0])
    assert all(verdicts == {True, False} for verdicts in found.values())


def row_of(name, fields):
    return {"prompt": ASKED, "instruction_id_list": [name], "kwargs": [fields]}


@pytest.mark.slow
def test_verdicts_equal_the_published_checkers(tmp_path):
    """Strict and loose, of every case."""
    (tmp_path / "cases.json").write_text(json.dumps(CASES), "utf-8")
    folder, _ = logged("ifeval", tmp_path / "out", 0, tmp_path / "cases.json")
    theirs = json.loads((folder / "verdicts.json").read_text("utf-8"))
    assert len(theirs) == len(CASES)
    wrong = []
    for (name, fields, text), expected in zip(CASES, theirs, strict=True):
        found = [side[0] for side in followed(row_of(name, fields), text.strip())]
        if found != expected:
            wrong.append((name, fields, text, found, expected))
    assert not wrong, f"{len(wrong)} of {len(CASES)}: {wrong[:6]}"


ROWS = [
    {"key": 1, "prompt": "a", "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
    "kwargs": [{}, {}]},
    {"key": 2, "prompt": "b", "instruction_id_list": ["startend:quotation"], "kwargs": [{"num_words": None}]},
]  # fmt: skip


class Canned:
    name = identity = "canned"
    kept = 1

    def __init__(self, answers):
        self.answers = list(answers)

    def generate(self, prompts, stop, length, chat):
        return [self.answers.pop(0) for _ in prompts]


def test_scores_by_prompt_and_by_instruction(tmp_path):
    """Of three instructions on two prompts two are met strictly, and all of them without the first line."""
    (tmp_path / "ifeval").mkdir()
    (tmp_path / "ifeval" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    _, own = load_benchmark("ifeval")
    items = items_of(own, tmp_path)
    assert [item.prompt for item in items] == ["a", "b"] and own.generation.stop == ()
    found = evaluate(Canned(["<<x>> but, no\n<<y>>", '"q"']), "ifeval", items, own)
    scores = {score.metric: (score.value, score.items, score.clusters) for score in found.scores}
    assert scores == {
        "prompt strict": (0.5, 2, 2), "instruction strict": (2 / 3, 3, 2),
        "prompt loose": (1.0, 2, 2), "instruction loose": (1.0, 3, 2),
    }  # fmt: skip
    assert found.verdicts[0].note == "not followed: punctuation:no_comma" and found.verdicts[1].note == ""


@pytest.mark.parametrize("ids, kwargs, message", [
    (["a:b"], [{}], "instruction_id_list: 'a:b' is not known"), ([["a"]], [{}], r"instruction_id_list: \['a'\] is not"),
    ([{"a": 1}], [{}], "instruction_id_list: {'a': 1} is not known"), (["startend:quotation"], ["x"], "kwargs: 'x' is"),
    (["length_constraints:number_words"], [[3]], r"kwargs: \[3\] is no table"),
    (["length_constraints:number_words"], [{"num_words": 3, "relation": ["at least"]}], "kwargs.relation: "),
    ([], [], "needs a table of fields"), (["startend:quotation"], [], "needs a table"), ("x", [{}], "needs a table"),
    (["length_constraints:number_words"], [{"num_words": 3}], "kwargs.relation: None does not fit"),
    (["length_constraints:number_words"], [{"num_words": "3", "relation": "at least"}], "kwargs.num_words: '3'"),
    (["length_constraints:number_words"], [{"num_words": 3, "relation": "at most"}], "kwargs.relation: 'at most'"),
    (["keywords:existence"], [{"keywords": "x"}], "kwargs.keywords"),
    (["keywords:existence"], [{"keywords": ["c++("]}], "kwargs.keywords"),
    (["keywords:frequency"], [{"keyword": "(", "frequency": 1, "relation": "at least"}], "kwargs.keyword"),
    (["startend:end_checker"], [None], "kwargs.end_phrase"),
])  # fmt: skip
def test_rows_that_no_checker_can_use(ids, kwargs, message, tmp_path):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        instructions_of({"instruction_id_list": ids, "kwargs": kwargs})


def test_a_slow_pattern_ends(tmp_path):
    row = row_of("keywords:existence", {"keywords": ["(a+)+$"]})
    assert followed(row, "a" * 40 + "b") == ([False], [False])


SPOKEN = {
    "en": "The boats are in the harbour and they will leave when it is dark.",
    "nl": "De boten liggen in de haven en het is niet ver.",
    "de": "Die Boote liegen im Hafen und das Meer ist ruhig.",
    "fr": "Les bateaux sont dans le port et la mer est calme.",
    "es": "Los barcos están en el puerto y la mar está en calma.", "it": "Le barche sono nel porto e il mare è calmo.",
    "pt": "Os barcos estão no porto e o mar está calmo.", "sv": "Båtarna ligger i hamnen och det är inte kallt.",
    "fi": "Veneet ovat satamassa ja meri on tyyni.", "pl": "Łodzie są w porcie i morze jest spokojne.",
    "vi": "Những chiếc thuyền đang ở trong cảng và biển rất yên.",
    "sw": "Mashua ziko katika bandari na bahari ni shwari kwa sasa.",
    "ru": "Лодки стоят в гавани, и море спокойно.", "bg": "Лодките са в пристанището и морето е спокойно.",
    "uk": "Човни стоять у гавані, і море є спокійним.", "ar": "القوارب في الميناء و البحر هادئ من الصباح إلى المساء",
    "fa": "قایق ها در بندر است و دریا آرام است", "ur": "کشتیاں بندرگاہ میں ہیں اور سمندر پرسکون ہے",
    "hi": "नावें बंदरगाह में हैं और समुद्र शांत है।", "mr": "होड्या बंदरात आहेत आणि समुद्र शांत आहे.",
    "ne": "डुङ्गाहरू बन्दरगाहमा छन् र समुद्र शान्त छ।", "bn": "নৌকাগুলি বন্দরে আছে।", "pa": "ਕਿਸ਼ਤੀਆਂ ਬੰਦਰਗਾਹ ਵਿੱਚ ਹਨ।",
    "gu": "હોડીઓ બંદરમાં છે.", "ta": "படகுகள் துறைமுகத்தில் உள்ளன.", "te": "పడవలు ఓడరేవులో ఉన్నాయి.",
    "kn": "ದೋಣಿಗಳು ಬಂದರಿನಲ್ಲಿವೆ.", "ml": "ബോട്ടുകൾ തുറമുഖത്താണ്.", "th": "เรืออยู่ในท่าเรือ",
    "ko": "배는 항구에 있습니다.",
    "ja": "船は港にあります。", "zh": "船在港口里，海很平静。", "el": "Τα πλοία είναι στο λιμάνι.",
    "he": "הסירות בנמל והים שקט.",
}  # fmt: skip


def test_languages():
    assert {code: language_of(text) for code, text in SPOKEN.items()} == {code: code for code in SPOKEN}
    assert {code: language_of(text.upper()) for code, text in SPOKEN.items()} == {code: code for code in SPOKEN}
    assert language_of("") is None and language_of("12 + 3 = 15!") is None and language_of("Zyx qwv") == "und"
