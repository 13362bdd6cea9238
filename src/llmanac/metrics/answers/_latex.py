"""Answers in LaTeX: the rewriting rules of the MATH benchmark (Hendrycks et al. 2021) and of Minerva (Lewkowycz et al.
2022, appendix D), with lm-eval's corrections. Both compare strings; neither knows mathematics.
"""

import re

MOST_LATEX = 2000  # characters of an answer that is rewritten; some of the rules are quadratic in it
_MARK, _END = "Final Answer: The final answer is", " I hope it is correct"
_RENAMED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), (r"\ ", ""), (" ", ""), ("mbox", "text"), (",\\text{and}", ","),
    ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_UNITS = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
    "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
UNIT_WORDS = [unit for unit in _UNITS if unit.isalpha()]
_ALONE = [re.compile(rf"(?<!\\)\b{unit}\b") for unit in UNIT_WORDS]
_BRACE = re.compile("[{}]")
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")
_WRAPPED = [
    (re.compile(pattern), to)
    for pattern, to in (
        (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"), (r"\\text\{(.*?)\}", r"\1"), (r"\\textbf\{(.*?)\}", r"\1"),
        (r"\\overline\{(.*?)\}", r"\1"), (r"\\boxed\{(.*)\}", r"\1"), (r"frac([^{])(.)", r"frac{\1}{\2}"),
        (r"sqrt(\[[^\]]*\])(\w)", r"sqrt\1{\2}"), (r"sqrt(?!\[)([^{])", r"sqrt{\1}"),
    )
]  # fmt: skip
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` (or `\fbox{...}`) holds, or what follows the last `\boxed ` up to a `$`."""
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    start = start if start >= 0 else text.rfind("\\fbox")
    if start < 0:
        return None
    depth = 0
    for found in _BRACE.finditer(text, start):
        depth += 1 if found[0] == "{" else -1
        if depth == 0 and found[0] == "}":
            return text[start : found.start()].partition("{")[2]
    return None


def between_dollars(text: str) -> str:
    """What is between the first and the last `$`; the text where there are not two."""
    first, last = text.find("$"), text.rfind("$")
    return text[first + 1 : last] if first < last else text


def minerva_answer(text: str) -> str | None:
    """What follows `Final Answer: The final answer is` and precedes `. I hope it is correct.` in the same line."""
    for line in (text + "I hope it is correct.").split("\n"):
        start = line.find(_MARK)
        if start < 0:
            continue
        start += len(_MARK)
        end = line.find(_END, start + 1)
        if end >= 0 and end + len(_END) < len(line):
            return line[start : end - 1].strip()
    return None


def same_as_hendrycks(one: str, two: str) -> bool:
    """lm-eval's `hendrycks_math` equality: equal after rewriting; where a rule fails, equal as they are."""
    try:
        return _hendrycks(one) == _hendrycks(two)
    except (ValueError, IndexError):
        return one == two


def same_as_minerva(one: str, two: str) -> bool:
    """Equal after Minerva's rewriting, and not empty."""
    return minerva(one) == minerva(two) != ""


def _hendrycks(text: str) -> str:
    if len(text) > MOST_LATEX:
        raise ValueError
    for old, new in (("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""),
                     ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", "")):  # fmt: skip
        text = text.replace(old, new)
    if "\\text{ " in text:  # units; more than one of them is not understood
        text, _ = text.split("\\text{ ")
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    text = sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text
    head, *parts = text.split("\\sqrt")
    text = head + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in parts)
    text = _fractions(text.replace(" ", ""))
    return _slash("\\frac{1}{2}" if text == "0.5" else text)


def _fractions(text: str) -> str:
    r"""Braces around the one-letter arguments of `\frac`; unchanged where one has too little behind it."""
    head, *parts = text.split("\\frac")
    out = [head]
    for part in parts:
        if part[0] == "{":
            out.append("\\frac" + part)
        elif len(part) < 2:
            return text
        else:
            below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            out.append(f"\\frac{{{part[0]}}}{below}")
    return "".join(out)


def _slash(text: str) -> str:
    """`a/b` of two integers as a fraction. Raises ValueError where a side of a single slash is no integer."""
    sides = text.split("/")
    if len(sides) != 2:
        return text
    above, below = int(sides[0]), int(sides[1])
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


def minerva(text: str) -> str:
    """An answer by Minerva's rules; one of more than `MOST_LATEX` characters as it is."""
    if len(text) > MOST_LATEX:
        return text
    text = text.split("=")[-1]
    for pattern in _ALONE:
        text = pattern.sub("", text)
    for old, new in _RENAMED:
        text = text.replace(old, new)
    for unit in _UNITS:
        if unit.isalpha():  # glued to what is around it, but no part of a command such as \left
            parts = _COMMAND.split(text)
            parts[::2] = [part.replace(unit, "") for part in parts[::2]]
            text = "".join(parts)
        else:
            text = text.replace(unit, "")
    for pattern, to in _WRAPPED:
        text = pattern.sub(to, text)
    text = text.replace("$", "")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
