"""What the study of classifiers shows: each claim, the numbers with their intervals, and the verdict.

A claim is a function: the first line of its docstring is its title and what is claimed, the rest the verdict, with the
numbers that the function returns; below it the measurements.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from evidence._page import unwrapped
from llmanac.lab._svg import nice_number
from llmanac.lab.classification.page import between, curve_chart, percent, spread
from llmanac.lab.report import Section, table
from llmanac.lab.stats import interval, mean

Found = Mapping[str, Any]
Claim = tuple[dict[str, Any], list[Section]]
BAGS = ("bow", "cbow", "deep-cbow")
ACCURACY = ("", "accuracy", "95% over seeds")


def claims(found: Found) -> list[Section]:
    """Every claim with its verdict, and below it what was measured."""
    out = []
    for claim in CLAIMS:
        facts, parts = claim(found)
        first, _, verdict = inspect.cleandoc(claim.__doc__ or "").partition("\n")
        title, _, claimed = first.partition(": ")
        said = unwrapped(verdict.strip().format(**facts))
        out += [Section(title, [f"Claim: {claimed}", *said]), *(replace(p, title=f"# {p.title}") for p in parts)]
    return out


def _accuracies(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return table(ACCURACY, [[name, percent(mean(own)), spread(own)] for name, own in values.items()])


def _curve(found: Found, *names: str) -> Section:
    lines = {name: {float(size): values for size, values in found["table"][name]["curve"].items()} for name in names}
    sizes = sorted({int(size) for points in lines.values() for size in points})
    rows = [[name, *(percent(mean(points[size])) for size in sizes)] for name, points in lines.items()]
    chart = curve_chart(lines, "training rows", "accuracy", "Accuracy over training rows")
    return Section(
        "Accuracy over training rows", [], [table(["rows", *(f"{size:,}" for size in sizes)], rows)],
        [{"svg": chart, "caption": "Every dot is one seed: another sample of the rows, another start."}],
    )  # fmt: skip


def _level(row: Mapping[str, Any]) -> str:
    return f"{percent(row['accuracy'])} ({between(row['interval_over_texts'])} over texts)"


def _slices(found: Found, *names: str) -> Section:
    slices = list(found["table"][names[0]]["slices"])
    rows = []
    for name in names:
        parts = found["table"][name]["slices"]
        rows.append([name, *(f"{mean(parts[s]['plain']):.0%} → {mean(parts[s]['changed']):.0%}" for s in slices)])
    return Section("Plain sentences → changed ones", [], [table(["accuracy", *slices], rows)])


def _rules(found: Found) -> Claim:
    """Rules: no training data, interpretable; fails on conjugation, synonyms, negation, metaphor, a second language.

    Without training rows the rules are right on {rules}; {best}, the best learned method, on {learned}, and it passes
    the rules with {beaten} rows. They fail, as claimed, on: {falls}. Against the claim they do not fail on: {holds};
    the rulebook covers these.
    """
    rules = found["table"]["rules"]
    parts = {name: (mean(p["plain"]), mean(p["changed"])) for name, p in rules["slices"].items()}
    falls = [name for name, (plain, changed) in parts.items() if changed < plain - 0.1]
    learned = {name: row for name, row in found["table"].items() if row["trained"]}
    best = max(learned, key=lambda name: learned[name]["accuracy"])
    beaten = learned[best]["rows_to_beat_rules"]
    facts = {
        "rules": _level(rules), "best": best, "learned": _level(learned[best]),
        "beaten": f"{beaten:,}" if beaten else "no",
        "falls": ", ".join(falls) or "none", "holds": ", ".join(name for name in parts if name not in falls) or "none",
    }  # fmt: skip
    return facts, [_slices(found, *found["table"])]


def _bow(found: Found) -> Claim:
    """Bag of words: improves with more data; no shared strength between similar words.

    From {first} to {last:,} rows the bag of words goes from {low} to {high}{steps}: more data {helps}. A word that is
    not in the training text counts nothing, whatever it resembles, and a word that is has only the weight of its own
    texts: no strength is shared between similar words, by construction.
    """
    curve = {int(size): mean(values) for size, values in found["table"]["bow"]["curve"].items()}
    sizes = sorted(curve)
    facts = {
        "first": sizes[0], "last": sizes[-1], "low": percent(curve[sizes[0]]), "high": percent(curve[sizes[-1]]),
        "steps": "" if all(curve[b] >= curve[a] - 0.01 for a, b in pairwise(sizes)) else ", not at every step",
        "helps": "helps, as claimed" if curve[sizes[-1]] > curve[sizes[0]] else "does not help, against the claim",
    }  # fmt: skip
    return facts, [_curve(found, "bow"), _rare(found, "bow", "cbow")]


def _rare(found: Found, *names: str) -> Section:
    times = sorted({t for name in names for t in found["table"][name]["extra"]["rare"][0]}, key=int)
    rows = []
    for name in names:
        own = found["table"][name]["extra"]["rare"]
        rows.append([name, *(percent(mean([one[t]["right"] for one in own])) for t in times)])
    words = found["table"][names[0]]["extra"]["rare"][0]
    heads = ["right label", *(f"{t}× ({words[t]['words']} words)" for t in times)]
    return Section(
        "Words of clear sentiment that are rare in training",
        ["Each word as a text of its own, by its number of training sentences; the rulebook gives the true label."],
        [table(heads, rows)],
    )  # fmt: skip


def _cbow(found: Found) -> Claim:
    """Continuous bag of words: similar words get close vectors and share strength.

    Similar words get {close}: those of one group are closer than others in {ranked} of the comparisons (one-hot
    vectors: {ties}, all ties), and closer than words of the opposite tone in {opposed}{kind}. On SST-2 cbow is right
    on {level}: {over:+.1f} points against bow ({low:+.1f} to {high:+.1f} over seeds), so it is {above} bow. That
    similar words share strength {shares} here: of the words that occur once, cbow labels {once[cbow]} correctly, bow
    {once[bow]}; trained on labels alone, a word's vector changes through its own texts only.
    """
    cbow, bow, one_hot = found["table"]["cbow"], found["table"]["bow"], found["one_hot_similarity"]
    own = {key: mean([one[key] for one in cbow["extra"]["similarity"]]) for key in one_hot}
    differences = [100 * (a - b) for a, b in zip(cbow["accuracies"], bow["accuracies"], strict=True)]
    low, high = interval(differences) if len(differences) > 1 else (differences[0], differences[0])
    rare = {
        name: mean([one["1"]["right"] for one in found["table"][name]["extra"]["rare"]]) for name in ("bow", "cbow")
    }
    facts = {
        "close": "close vectors, as claimed" if own["ranked_right"] > 0.6 else "hardly closer vectors",
        "ranked": percent(own["ranked_right"]), "ties": percent(one_hot["ranked_right"]),
        "opposed": percent(own["against_opposed"]), "level": _level(cbow), "over": mean(differences),
        "low": low, "high": high,
        "kind": ": close by label rather than by meaning" if own["against_opposed"] > own["ranked_right"] else "",
        "above": "above" if low > 0 else "below" if high < 0 else "not shown to differ from",
        "shares": "is borne out" if rare["cbow"] > rare["bow"] + 0.02 else "is not borne out",
        "once": {name: percent(value) for name, value in rare.items()},
    }  # fmt: skip
    nearest = [[word, ", ".join(f"{w} {c:.2f}" for w, c in near)] for word, near in found["nearest"].items()]
    rows = [
        [name, *(f"{one[key]:.2f}" for key in ("alike", "unlike", "opposed")),
         *(percent(one[key]) for key in ("ranked_right", "against_opposed"))]
        for name, one in (("one-hot", one_hot), ("cbow", own))
    ]  # fmt: skip
    words = f"{own['words']:.0f} words in eight groups; mean cosines, and how often an alike pair is the closer one."
    head = ["", "alike", "unlike", "opposed", "alike over unlike", "alike over opposed"]
    return facts, [
        Section("A list of similar words", [words], [table(head, rows)]),
        Section("Nearest words", ["Seed 0."], [table(["word", "nearest (cosine)"], nearest)]),
        _curve(found, "bow", "cbow"),
    ]


def _deep(found: Found) -> Claim:
    """Deep continuous bag of words: hidden layers learn combination features ("don't love") that cbow cannot.

    On held-out sentences whose label is an exclusive or of a verb and a negation, deep-cbow is right on {deep}; cbow
    on {cbow}, bow on {bow}, and deep-cbow without its nonlinearity on {linear}: {solved}. (Pairs of words as features
    solve it too: {pairs}.) {learned}: after training on it, negated verdicts are labelled correctly by deep-cbow in
    {denied[deep-cbow]}, by cbow in {denied[cbow]}, by bow in {denied[bow]}.
    """
    own = {name: mean(values) for name, values in found["exclusive_or"].items()}
    denied = {name: mean(found["table"][name]["slices"]["negation"]["changed"]) for name in BAGS}
    named = {"deep": "deep-cbow", "linear": "deep-cbow without its nonlinearity", "pairs": "bow, pairs of words"}
    linear = max(own[name] for name in ("cbow", "bow", named["linear"]))
    facts = {
        **{key: percent(own[name]) for key, name in {**named, "cbow": "cbow", "bow": "bow"}.items()},
        "denied": {name: percent(value) for name, value in denied.items()},
        "solved": "the hidden layer learns the combination" if own["deep-cbow"] > linear + 0.2 else "against the claim",
        "learned": "On SST-2, where such pairs are rare, it does not show" if denied["deep-cbow"] < 0.6 else "On "
        "SST-2 too",
    }  # fmt: skip
    said = '"i love X", "i don\'t love X", "i hate X", "i don\'t hate X"; objects held out.'
    first = Section("An exclusive or", [said], [_accuracies(found["exclusive_or"])])
    return facts, [first, _slices(found, *BAGS), _curve(found, "cbow", "deep-cbow")]


def _prompting(found: Found) -> Claim:
    """Prompting: classification with no training.

    No label was used, and prompting is right on {level}; the most frequent label is right on {chance}. That is
    {above}, for a language model of {parameters} parameters that has read only {read}. Prompting needs a model
    pretrained on far more text; the scores equal lm-eval's.
    """
    row, lm, chance = found["table"]["prompting"], found["language_model"], found["data"]["chance"]
    better = row["interval_over_texts"][0] > chance
    above = "above chance, as claimed" if better else "not above chance, which contradicts the claim"
    rows = [[name, percent(one["accuracy"]), percent(one["second_label"])] for name, one in found["prompts"].items()]
    facts = {
        "level": _level(row),
        "chance": percent(chance),
        "above": above,
        "parameters": nice_number(lm["parameters"]),
    }
    ways = "Test accuracy, and how often the second label is given."
    compared = [table(["compared by", "accuracy", "second label"], rows)]
    about = {"parameters": nice_number(lm["parameters"]), "read": lm["read"]}
    return {**facts, **about}, [Section("Ways to compare", [ways], compared)]


def _fine_tuning(found: Found) -> Claim:
    """Fine-tuning: learns from paired <X, Y>.

    On 1,000 pairs fine-tuning reaches {true}; with the same labels shuffled {dealt}: {learns}. From the same model
    untrained it reaches {fresh}. On all rows: {level}; {best}, without pretraining, {words}. The model has
    {parameters} parameters and has read only {read}; a model pretrained on more text was not available.
    """
    pairs, lm = found["pairs"], found["language_model"]
    best = max(BAGS, key=lambda name: found["table"][name]["accuracy"])
    true, dealt, fresh = (
        mean(pairs[name]) for name in ("true pairs", "labels dealt out anew", "true pairs, untrained model")
    )
    facts = {
        "true": percent(true), "dealt": percent(dealt), "fresh": percent(fresh), "best": best, "read": lm["read"],
        "level": _level(found["table"]["fine-tuning"]), "words": _level(found["table"][best]),
        "parameters": nice_number(lm["parameters"]),
        "learns": "what it learns is in the pairs, as claimed" if true > dealt + 0.05 else "against the claim",
    }  # fmt: skip
    return facts, [Section("1,000 rows", [], [_accuracies(pairs)]), _curve(found, best, "fine-tuning")]


def _embedding(found: Found) -> Claim:
    """Embedding lookup: one-hot cosine is 0 between distinct words; linear-probe accuracy, dense against sparse.

    Between one-hot vectors of {words:.0f} different words the largest cosine is {cosine:g}; the claim is 0. A linear
    probe on {last:,} rows is right on {late[0]} with the mean of dense vectors learned from text and on {late[1]}
    with sparse counts; on {first} rows on {early[0]} and {early[1]}. {verdict}
    """
    probes, one_hot = found["probes"], found["one_hot"]
    sizes = sorted({int(size) for points in probes.values() for size in points})
    early, late = (
        [mean(probes[name][str(size)]) for name in ("dense, learned from text", "sparse, counts of words")]
        for size in (sizes[0], sizes[-1])
    )
    lose = "Dense vectors this small, learned from so little text, lose."
    facts = {
        "words": one_hot["words"], "cosine": one_hot["largest_cosine"], "first": sizes[0], "last": sizes[-1],
        "early": [percent(value) for value in early], "late": [percent(value) for value in late],
        "verdict": "Dense vectors win." if late[0] > late[1] else lose,
    }  # fmt: skip
    lines = {name: {float(size): values for size, values in points.items()} for name, points in probes.items()}
    rows = [[name, *(f"{percent(mean(points[str(s)]))} ({spread(points[str(s)])})" for s in sizes)]
            for name, points in probes.items()]  # fmt: skip
    chart = {"svg": curve_chart(lines, "training rows", "accuracy", "Linear probes"), "caption": "A dot a seed."}
    said = "Test accuracy of logistic regression on fixed features (95% over seeds)."
    return facts, [Section("Linear probes", [said], [table(["rows", *(f"{s:,}" for s in sizes)], rows)], [chart])]


def _bce(found: Found) -> Claim:
    """Binary cross-entropy: formula as given.

    Over {grid:,} scores from -120 to 120 and three targets, the loss differs from torch's by at most
    {largest_difference:.1e} and its slope from sigmoid(z) - y by at most {slope_difference:.1e}: the formula as
    given. Written out directly in float32 the formula stops being finite at |z| = {formula_breaks_at:.1f}; the stable
    form never does.
    """
    return found["bce"], []


def _cross_entropy(found: Found) -> Claim:
    """Cross-entropy: the fused form needs a fraction of the memory.

    Value and gradient together, counted from every allocation: at {classes:,} classes the fused form holds
    {fused:,.0f} MB at its peak, torch's F.cross_entropy behind a linear layer {torch:,.0f} MB, {times:.1f} times as
    much.
    """
    last, names = found["bytes"][-1], ("scores", "fused", "plain", "torch")
    cells = [
        [f"{row['classes']:,}", *(f"{row[key] / 1e6:,.0f} MB" for key in names), f"{row['torch'] / row['fused']:.1f}×"]
        for row in found["bytes"]
    ]
    heads = ["classes", "the scores alone", "fused", "our plain form", "torch", "torch over fused"]
    facts = {"classes": last["classes"], "times": last["torch"] / last["fused"], **{n: last[n] / 1e6 for n in names}}
    facts["fraction"] = "a fraction of the memory, as claimed" if facts["times"] > 2 else "against the claim"
    return facts, [Section("Peak bytes", ["2,048 rows, float32, forward and backward."], [table(heads, cells)])]


CLAIMS = (_rules, _bow, _cbow, _deep, _prompting, _fine_tuning, _embedding, _bce, _cross_entropy)
