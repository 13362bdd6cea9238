"""What the study of classifiers shows: each claim, the numbers with their intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from llmanac.lab._svg import nice_number
from llmanac.lab.classification.page import between, curve_chart, share, spread
from llmanac.lab.report import Section, table
from llmanac.lab.stats import interval, mean

Found = Mapping[str, Any]
ACCURACY = ("", "accuracy", "95% over seeds")


def claims(found: Found) -> list[Section]:
    """Every claim with its verdict, and below it what was measured."""
    out = []
    for title, claim, make in CLAIMS:
        verdict, parts = make(found)
        out += [
            Section(title, [f"Claim: {claim}.", verdict]),
            *(replace(part, title=f"# {part.title}") for part in parts),
        ]
    return out


def _accuracies(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return table(ACCURACY, [[name, share(mean(own)), spread(own)] for name, own in values.items()])


def _curve(found: Found, *names: str) -> Section:
    lines = {name: {float(size): values for size, values in found["table"][name]["curve"].items()} for name in names}
    sizes = sorted({int(size) for points in lines.values() for size in points})
    rows = [[name, *(share(mean(points[size])) for size in sizes)] for name, points in lines.items()]
    chart = curve_chart(lines, "training rows", "accuracy", "Accuracy over training rows")
    return Section(
        "Accuracy over training rows", [], [table(["rows", *(f"{size:,}" for size in sizes)], rows)],
        [{"svg": chart, "caption": "Every dot is one seed: another sample of the rows, another start."}],
    )  # fmt: skip


def _level(row: Mapping[str, Any]) -> str:
    return f"{share(row['accuracy'])} ({between(row['interval_over_texts'])} over texts)"


def _slices(found: Found, *names: str) -> Section:
    slices = list(found["table"][names[0]]["slices"])
    rows = []
    for name in names:
        parts = found["table"][name]["slices"]
        rows.append([name, *(f"{mean(parts[s]['plain']):.0%} → {mean(parts[s]['changed']):.0%}" for s in slices)])
    return Section("Plain sentences → changed ones", [], [table(["accuracy", *slices], rows)])


def _rules(found: Found) -> tuple[str, list[Section]]:
    rules = found["table"]["rules"]
    parts = {name: (mean(p["plain"]), mean(p["changed"])) for name, p in rules["slices"].items()}
    falls = [name for name, (plain, changed) in parts.items() if changed < plain - 0.1]
    holds = [name for name in parts if name not in falls]
    learned = {name: row for name, row in found["table"].items() if row["trained"]}
    best = max(learned, key=lambda name: learned[name]["accuracy"])
    beaten = learned[best]["rows_to_beat_rules"]
    said = [
        f"Without one training row the rules are right on {_level(rules)}; {best}, the best of what is learned, on "
        f"{_level(learned[best])}"
        + (f" and passes the rules with {beaten:,} rows." if beaten else "; nothing passes them."),
        f"They fail, as claimed, on: {', '.join(falls) or 'none of the slices'}.",
    ]
    if holds:
        said.append(
            f"Against the claim they do not fail on: {', '.join(holds)}; what the rulebook foresaw is no failure."
        )
    return " ".join(said), [_slices(found, *found["table"])]


def _bow(found: Found) -> tuple[str, list[Section]]:
    row = found["table"]["bow"]
    curve = {int(size): mean(values) for size, values in row["curve"].items()}
    sizes = sorted(curve)
    rises = all(curve[b] >= curve[a] - 0.01 for a, b in pairwise(sizes))
    rare = _rare(found, "bow", "cbow")
    more = curve[sizes[-1]] > curve[sizes[0]]
    verdict = (
        f"From {sizes[0]} to {sizes[-1]:,} rows the bag of words goes from {share(curve[sizes[0]])} to "
        f"{share(curve[sizes[-1]])}{'' if rises else ', not at every step'}: more data "
        f"{'helps, as claimed' if more else 'does not help, against the claim'}. A word that training did not show "
        "counts nothing, whatever it resembles, and one that it showed has only the weight of its own texts: no "
        "strength is shared between similar words, by construction."
    )
    return verdict, [_curve(found, "bow"), rare]


def _rare(found: Found, *names: str) -> Section:
    times = sorted({t for name in names for t in found["table"][name]["extra"]["rare"][0]}, key=int)
    rows = []
    for name in names:
        own = found["table"][name]["extra"]["rare"]
        rows.append([name, *(share(mean([one[t]["right"] for one in own])) for t in times)])
    words = found["table"][names[0]]["extra"]["rare"][0]
    heads = ["right label", *(f"{t}× ({words[t]['words']} words)" for t in times)]
    return Section(
        "Words of clear sentiment that training showed a few times",
        ["Each word as a text of its own, by how many training sentences hold it; right is what our rulebook says."],
        [table(heads, rows)],
    )  # fmt: skip


def _cbow(found: Found) -> tuple[str, list[Section]]:
    alike = found["table"]["cbow"]["extra"]["similarity"]
    ranked, opposed = [one["ranked_right"] for one in alike], [one["against_opposed"] for one in alike]
    one_hot = found["one_hot_similarity"]["ranked_right"]
    cbow, bow = found["table"]["cbow"], found["table"]["bow"]
    over = cbow["accuracy"] - bow["accuracy"]
    differences = [a - b for a, b in zip(cbow["accuracies"], bow["accuracies"], strict=True)]
    low, high = interval(differences) if len(differences) > 1 else (over, over)
    versus = f"{100 * over:+.1f} points against bow ({100 * low:+.1f} to {100 * high:+.1f} over seeds)"
    above = "above" if low > 0 else "below" if high < 0 else "not shown to differ from"
    rare = {
        name: mean([one["1"]["right"] for one in found["table"][name]["extra"]["rare"]]) for name in ("bow", "cbow")
    }
    shares = "is borne out" if rare["cbow"] > rare["bow"] + 0.02 else "is not borne out"
    close = "get close vectors, as claimed" if mean(ranked) > 0.6 else "get hardly closer vectors, against the claim"
    kind = ": they are close by label rather than by meaning" if mean(opposed) > mean(ranked) else ""
    verdict = (
        f"Similar words {close}: those of one group are closer than others in {share(mean(ranked))} of the comparisons "
        f"(one-hot vectors: {share(one_hot)}, all ties), and closer than words of the opposite tone in "
        f"{share(mean(opposed))}{kind}. On SST-2 cbow is right on {_level(cbow)}: {versus}, so it is {above} bow. That "
        f"similar words share strength {shares} here: of the words shown once, cbow labels {share(rare['cbow'])} "
        f"rightly, bow {share(rare['bow'])}; trained on labels alone, a word's vector is moved by its own texts only."
    )
    heads = ["word", "nearest (cosine)"]
    nearest = [[word, ", ".join(f"{w} {c:.2f}" for w, c in near)] for word, near in found["nearest"].items()]
    rows = [
        ["one-hot", "0.00", "0.00", "0.00", share(one_hot), share(found["one_hot_similarity"]["against_opposed"])],
        ["cbow", *(f"{mean([one[key] for one in alike]):.2f}" for key in ("alike", "unlike", "opposed")),
         share(mean(ranked)), share(mean(opposed))],
    ]  # fmt: skip
    similar = Section(
        "A list of similar words",
        [f"{alike[0]['words']} words in eight groups; mean cosines, and how often an alike pair is the closer one."],
        [table(["", "alike", "unlike", "opposed", "alike over unlike", "alike over opposed"], rows)],
    )
    near = Section("Nearest words", ["Seed 0."], [table(heads, nearest)])
    return verdict, [similar, near, _curve(found, "bow", "cbow"), _rare(found, "bow", "cbow")]


def _deep(found: Found) -> tuple[str, list[Section]]:
    own = {name: mean(values) for name, values in found["exclusive_or"].items()}
    deep, row = own["deep-cbow"], found["table"]
    negation = {name: mean(row[name]["slices"]["negation"]["changed"]) for name in ("bow", "cbow", "deep-cbow")}
    linear = max(own["cbow"], own["bow"], own["deep-cbow without its nonlinearity"])
    solved = "the hidden layer learns the combination, as claimed" if deep > linear + 0.2 else "against the claim"
    learned = "On SST-2, where such pairs are rare, it does not show" if negation["deep-cbow"] < 0.6 else "On SST-2 too"
    verdict = (
        "On sentences whose label is an exclusive or of a verb and a denial, deep-cbow is right on "
        f"{share(deep)} of held-out ones; cbow on {share(own['cbow'])}, bow on {share(own['bow'])}, and deep-cbow "
        f"without its nonlinearity on {share(own['deep-cbow without its nonlinearity'])}: {solved}. (Pairs of words as "
        f"features solve it too: {share(own['bow, pairs of words'])}.) {learned}: after training on it, denied "
        f"verdicts are labelled rightly by deep-cbow in {share(negation['deep-cbow'])}, by cbow in "
        f"{share(negation['cbow'])}, by bow in {share(negation['bow'])}."
    )
    first = Section(
        "An exclusive or", ['"i love X", "i don\'t love X", "i hate X", "i don\'t hate X"; objects held out.'],
        [_accuracies(found["exclusive_or"])],
    )  # fmt: skip
    return verdict, [first, _slices(found, "bow", "cbow", "deep-cbow"), _curve(found, "cbow", "deep-cbow")]


def _prompting(found: Found) -> tuple[str, list[Section]]:
    row, lm = found["table"]["prompting"], found["language_model"]
    low, chance = row["interval_over_texts"][0], found["data"]["chance"]
    contradicted = (
        "That is not above chance, so for this model our number contradicts the claim: a language model of "
        f"{nice_number(lm['parameters'])} parameters that has read only {lm['read']}, does not know what it is asked. "
        "Prompting needs a model pretrained on far more text; the scores themselves equal lm-eval's."
    )
    verdict = (
        f"No label was used, and prompting is right on {_level(row)}; always saying the most frequent label is right "
        f"on {share(chance)}. {'It classifies without training, as claimed.' if low > chance else contradicted}"
    )
    rows = [[name, share(one["accuracy"]), share(one["second_label"])] for name, one in found["prompts"].items()]
    return verdict, [
        Section("Ways to compare", ["Test accuracy, and how often the second label is given."],
                [table(["compared by", "accuracy", "second label"], rows)]),
    ]  # fmt: skip


def _fine_tuning(found: Found) -> tuple[str, list[Section]]:
    pairs, row, lm = found["pairs"], found["table"]["fine-tuning"], found["language_model"]
    best_word = max(("bow", "cbow", "deep-cbow"), key=lambda name: found["table"][name]["accuracy"])
    true, dealt, fresh = (
        mean(pairs[name]) for name in ("true pairs", "labels dealt out anew", "true pairs, untrained model")
    )
    learns = "what it learns is in the pairs, as claimed" if true > dealt + 0.05 else "against the claim"
    verdict = (
        f"On 1,000 pairs fine-tuning reaches {share(true)}; with the same labels dealt out anew {share(dealt)}: "
        f"{learns}. From the same model untrained it reaches {share(fresh)}. On all rows: {_level(row)}; {best_word}, "
        f"which reads no text beforehand, {_level(found['table'][best_word])}. The model has "
        f"{nice_number(lm['parameters'])} parameters and has read only {lm['read']}; one that was pretrained on more "
        "text is another matter, and was not at hand."
    )
    return verdict, [Section("1,000 rows", [], [_accuracies(pairs)]), _curve(found, best_word, "fine-tuning")]


def _embedding(found: Found) -> tuple[str, list[Section]]:
    probes = found["probes"]
    last = str(max(int(size) for size in probes["sparse, counts of words"]))
    dense, sparse = (mean(probes[name][last]) for name in ("dense, learned from text", "sparse, counts of words"))
    first = str(min(int(size) for size in probes["sparse, counts of words"]))
    early = {name: mean(values[first]) for name, values in probes.items()}
    verdict = (
        f"Between one-hot vectors of {found['one_hot']['words']:.0f} different words the largest cosine is "
        f"{found['one_hot']['largest_cosine']:g}, as claimed. A linear probe on {int(last):,} rows is right on "
        f"{share(dense)} with the mean of dense vectors learned from text and on {share(sparse)} with sparse counts; "
        f"on {first} rows on {share(early['dense, learned from text'])} and "
        f"{share(early['sparse, counts of words'])}. "
        + ("Dense vectors win." if dense > sparse else "Dense vectors this small, learned from this little text, lose.")
    )
    lines = {name: {float(size): values for size, values in points.items()} for name, points in probes.items()}
    sizes = sorted({int(size) for points in probes.values() for size in points})
    rows = [[name, *(f"{share(mean(points[str(s)]))} ({spread(points[str(s)])})" for s in sizes)]
            for name, points in probes.items()]  # fmt: skip
    chart = curve_chart(lines, "training rows", "accuracy", "Linear probes")
    return verdict, [
        Section("Linear probes", ["Test accuracy of logistic regression on fixed features (95% over seeds)."],
                [table(["rows", *(f"{s:,}" for s in sizes)], rows)], [{"svg": chart, "caption": "A dot a seed."}]),
    ]  # fmt: skip


def _bce(found: Found) -> tuple[str, list[Section]]:
    own = found["bce"]
    verdict = (
        f"Over {own['grid']:,} scores from -120 to 120 and three targets, the loss differs from torch's by at most "
        f"{own['largest_difference']:.1e} and its slope from sigmoid(z) - y by at most {own['slope_difference']:.1e}: "
        "the formula as given. Written out directly in float32 the formula stops being finite at |z| = "
        f"{own['formula_breaks_at']:.1f}; the stable form never does."
    )
    return verdict, []


def _cross_entropy(found: Found) -> tuple[str, list[Section]]:
    rows = found["bytes"]
    cells = [
        [f"{row['classes']:,}", *(f"{row[key] / 1e6:,.0f} MB" for key in ("scores", "fused", "plain", "torch")),
         f"{row['torch'] / row['fused']:.1f}×"]
        for row in rows
    ]  # fmt: skip
    verdict = (
        f"Value and gradient together, counted from every allocation: at {rows[-1]['classes']:,} classes the fused "
        f"form holds {rows[-1]['fused'] / 1e6:,.0f} MB at its peak, torch's F.cross_entropy behind a linear layer "
        f"{rows[-1]['torch'] / 1e6:,.0f} MB, {rows[-1]['torch'] / rows[-1]['fused']:.1f} times as much: "
        + (
            "a fraction of the memory, as claimed."
            if rows[-1]["fused"] * 2 < rows[-1]["torch"]
            else "against the claim."
        )
    )
    heads = ["classes", "the scores alone", "fused", "our plain form", "torch", "torch over fused"]
    return verdict, [Section("Peak bytes", ["2,048 rows, float32, forward and backward."], [table(heads, cells)])]


CLAIMS = (
    (
        "Rules",
        "no training data, fully interpretable; fails on conjugation, synonyms, negation, metaphor, a second language",
        _rules,
    ),
    ("Bag of words", "improves with more data; no shared strength between similar words", _bow),
    ("Continuous bag of words", "similar words get close vectors and share strength", _cbow),
    (
        "Deep continuous bag of words",
        'hidden layers learn combination features ("don\'t love") that cbow cannot',
        _deep,
    ),
    ("Prompting", "classification with no training", _prompting),
    ("Fine-tuning", "learns from paired <X, Y>", _fine_tuning),
    (
        "Embedding lookup",
        "one-hot cosine is 0 between distinct words; linear-probe accuracy, dense against sparse",
        _embedding,
    ),
    ("Binary cross-entropy", "formula as given", _bce),
    ("Cross-entropy", "the fused form needs a fraction of the memory", _cross_entropy),
)
