"""Formulas of docstrings as MathML: every one is rendered, and nothing of it is lost."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from llmanac.guide import markdown, mathml
from llmanac.guide.mathml import block
from llmanac.guide.pages import pages

pytest.importorskip("latex2mathml")
MOST_PLAIN = 33  # indented blocks that stay plain: code and tables of words
GREEK = dict(zip(sorted(mathml.GREEK), "αβδηγκλμωφπψρστθ", strict=True))


def blocks():
    """Every indented block of the explanations, once."""
    for page in {p.path: p for p in pages().values()}.values():
        held = []
        for line in [*page.explanation.splitlines(), ""]:
            if line.startswith("    ") and line.strip():
                held.append(line[4:])
            elif held:
                yield page.path, held
                held = []


def letters(text):
    """Letters and digits in order, without those that are signs."""
    for variant, plain in (("ϕ", "φ"), ("ϵ", ""), ("∞", "")):
        text = text.replace(variant, plain)
    return "".join(c for c in text if c.isalnum())


def plain_letters(text):
    """The same of a plain formula: names of signs are signs."""
    text = re.sub(r"sqrt(?=\()|(?<![A-Za-z])(?:sum|prod)(?=[_^(])|(?<![A-Za-z])(?:inf|eps)(?![A-Za-z])", "", text)
    for name in sorted(GREEK, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z-]){name}(?![A-Za-z-])", GREEK[name], text)
    return letters(text)


def test_every_formula_is_rendered_and_nothing_is_lost():
    count = plain = 0
    for path, held in blocks():
        if not mathml.is_formula(held):
            plain += 1
            continue
        made = mathml.block(held)
        tree = ElementTree.fromstring(made)
        assert tree.findall(".//{*}math"), path
        said = [letters("".join(m.itertext())) for m in tree.findall(".//{*}math")]
        said += [plain_letters(words.text) for words in tree.findall(".//span")]
        assert sorted("".join(said)) == sorted(plain_letters("\n".join(held))), (path, held)
        count += len(tree.findall(".//{*}math"))
    assert count > 500 and plain <= MOST_PLAIN, (count, plain)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("y = x / sqrt(mean(x^2) + eps)", r"y=x/\sqrt{\mathrm{mean}(x^{2})+\epsilon }"),
        ("q_i = p_i^alpha / sum_j p_j^alpha", r"q_{i}=p_{i}^{\alpha}/\sum _{j}p_{j}^{\alpha}"),
        ("p(v | x_<=t) >= 1, y*", r"p(v|x_{\le t})\ge 1,y^{*}"),
        ("h_(t-1) -> z'_v <- log10 n", r"h_{t-1}\to z'_{v}\leftarrow \log_{10}n"),
        ("loss = sum over t of x", r"\text{ loss }=\text{ sum over }t\text{ of }x"),
    ],
)
def test_plain_characters_as_latex(text, expected):
    assert mathml.latex(text) == expected


def test_hostile_text_is_escaped_or_left():
    for text in (
        "x = </math><script>",
        "a = \\input{x} \\href{javascript:1}{b}",
        "x = {{{{ }",
        "x = ((((",
        "x_ = ^",
        "= _",
    ):
        made = markdown.render(f"    {text}\n")
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(f"<x>{made}</x>").iter()}
        assert tags <= {"x", "div", "span", "math", "mrow", "mi", "mo", "mn", "mtext", "msub", "msup", "pre", "code"}, (
            tags
        )
    assert "<math" in markdown.inline("so $x_1 = \\frac{a}{b}$ holds", lambda _: None)
    assert "<math" not in markdown.inline("it costs $3 or $4 a day, in $HOME or $PATH", lambda _: None)
    assert mathml.mathml(r"\frac{") is None and mathml.mathml(r"\nothing x") is None
    assert "<code>engine = Engine(model)" in markdown.render("    engine = Engine(model)  # one\n")


def test_without_the_package_formulas_are_plain(monkeypatch):
    monkeypatch.setattr(mathml, "convert", None)
    mathml.mathml.cache_clear()
    assert markdown.render("    y = W x\n") == '<pre tabindex="0"><code>y = W x</code></pre>'
    assert markdown.inline("$x_1$", lambda _: None) == "<code>x_1</code>"
    mathml.mathml.cache_clear()


def test_a_source_in_brackets_is_words():
    made = block(["lp(n) = ((5 + n) / 6)^a            (`gnmt`, Wu et al. 2016, equation 14)"])
    assert "<span>(`gnmt`, Wu et al. 2016, equation 14)</span>" in made and "<math" in made
