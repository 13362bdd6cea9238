"""Fit the ranker's weights (`ranker.py`) on questions about folders of documents:

    python -m llmanac.retrieve.folder.fit FOLDER... -o FILE.json [--asked FILE...] [--encoder MODEL] [--questions N]

Each folder yields questions by itself (`questions.py`). `heading`: the name in a heading; its section answers.
`summary`: a section's first sentence. `removed`: the same, taken out of the text first; what is left answers. `cloze`:
a sentence, some with the name of its heading or with words around it. Words are left out, some are replaced by words of
other passages, and letters of names are swapped, as in the questions of people. With `--asked` there are also questions
that people asked about the first folder; a set of weights with `ENOUGH` of them is fitted on these alone. Each question
is asked twice: as the folder is, and with the file that answers removed, and the words that no other one has; then
nothing answers.

The passages and the sentences have regressions of a softmax (listwise), the folder's answering a logistic one, by
Newton's method with a ridge on standardized features. The last one's bias makes `REFUSED` of the questions without an
answer have less than 0.5. It and all that is printed come from five parts of the files, each rated by weights of the
other four; the weights that are written are of all files. With an encoder there are weights for hybrid retrieval too,
and first the table of related words is written beside the file, from the vectors of the encoder's vocabulary and of the
folders' words.
"""

import argparse
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import LlmanacError
from llmanac.core.progress import progress
from llmanac.retrieve import dense
from llmanac.retrieve._words import STOP, code_words
from llmanac.retrieve.folder.index import FolderIndex, Passage
from llmanac.retrieve.folder.questions import FolderQuestion, questions_of, read_questions, without
from llmanac.retrieve.folder.ranker import (
    CANDIDATES,
    PARTS,
    PASSAGE,
    SENTENCE,
    SETS,
    Asked,
    Ranker,
    RankerWeights,
    Related,
    log_softmax,
    related_words,
    set_of,
)

QUESTIONS, FOLDS, REFUSED, RIDGE = 1500, 5, 0.87, 3.0
ENOUGH = 100  # questions of people from which on a set is fitted on these alone
NEAR, LEAST, OFTEN = 16, 0.45, 2  # related words of a word, their cosine, times that a folder has a word
_PLAIN = re.compile(r"(?<![\w.])[A-Za-z]?[a-z]{2,}(?![\w.])")
Rated = tuple[np.ndarray, np.ndarray]  # features and labels


def logistic(x: np.ndarray, y: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """(F + 1,) weights and bias of the logistic regression of y (N,) on x (N, F), the ridge on standardized x."""
    z, mean, scale = _standardized(x)
    z, penalty = np.concatenate([z, np.ones((len(x), 1))], 1), np.append(np.full(x.shape[1], ridge), 0.0)

    def slopes(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        scores = z @ w
        p = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        return float(np.logaddexp(0, scores).sum() - scores @ y), z.T @ (p - y), (z * (p * (1 - p))[:, None]).T @ z

    w = _newton(slopes, penalty)
    return np.append(w[:-1] / scale, w[-1] - (w[:-1] * mean / scale).sum())


def softmax_regression(groups: Sequence[Rated], ridge: float = RIDGE) -> np.ndarray:
    """(F + 1,) weights, and 0 for a bias, of the probability that the softmax of a group's rows gives to those of y.

    The ridge is on standardized x. Groups x (N, F) of which no row, or all, are of y (N,) say nothing.
    """
    width = groups[0][0].shape[1]
    groups = [(x, y.astype(bool)) for x, y in groups if y.any() and not y.all()]
    if not groups:
        return np.zeros(width + 1)
    z, _, scale = _standardized(np.concatenate([x for x, _ in groups]))
    ends = np.cumsum([len(y) for _, y in groups])
    parts = [(z[end - len(y) : end], y) for end, (_, y) in zip(ends, groups, strict=True)]

    def slopes(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        loss, slope, bend = 0.0, np.zeros(len(w)), np.zeros((len(w), len(w)))
        for rows, y in parts:
            scores = rows @ w
            p, own = np.exp(log_softmax(scores)), np.exp(log_softmax(scores[y]))
            mean = p @ rows
            loss -= float(np.log(p[y].sum() + 1e-300))
            slope += mean - own @ rows[y]
            bend += (rows * p[:, None]).T @ rows - np.outer(mean, mean)
        return loss, slope, bend

    return np.append(_newton(slopes, np.full(z.shape[1], ridge)) / scale, 0.0)


def _standardized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = np.inf  # a feature that never differs has no weight
    return (x - mean) / scale, mean, scale


def _newton(slopes: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]], penalty: np.ndarray) -> np.ndarray:
    """Where a loss, which comes with its slope and a matrix that bends at least as much, is least with a ridge."""
    w = np.zeros(len(penalty))
    loss, slope, bend = slopes(w)
    for _ in range(100):
        step = np.linalg.solve(bend + np.diag(penalty + 1e-9), slope + penalty * w)
        while True:  # shorter, until the loss falls
            new = slopes(w - step)
            if new[0] + penalty @ (w - step) ** 2 / 2 <= loss + penalty @ w**2 / 2 or abs(step).max() < 1e-10:
                break
            step /= 2
        w -= step
        loss, slope, bend = new
        if abs(step).max() < 1e-9:
            break
    return w


@dataclass
class _Asked:
    """What one question has: its candidates with features, which of them answer, features of the candidates with the
    file removed, and of the sentences of a passage that answers, with which of these do."""

    question: FolderQuestion
    asked: Asked
    less: Asked
    x: np.ndarray
    here: np.ndarray
    gone: np.ndarray
    sentences: Rated
    set: str
    part: int


def _looked_up(ranker: Ranker, question: FolderQuestion) -> _Asked:
    asked = ranker.asked(question.text)
    found = ranker.candidates(asked)
    here = np.array([question.answers(passage) for passage, _ in found], bool)
    if question.sort == "removed":
        found = [(without(p, question.gold) if yes else p, c) for (p, c), yes in zip(found, here, strict=True)]
    less = ranker.asked(question.text, _only_in(ranker, question))
    others = [one for one in ranker.candidates(less, 2 * CANDIDATES) if not question.related(one[0])]
    x, y = list[list[float]](), list[bool]()
    for passage in [p for (p, _), yes in zip(found, here, strict=True) if yes][:1]:
        for a, b, values in ranker.sentence_features(asked, passage):
            x.append(values)
            y.append(question.said_by(" ".join(passage.text[a:b].split())))
    document = question.passage.document if question.passage else question.text
    sentences = np.array(x).reshape(-1, len(SENTENCE)), np.array(y, bool)
    less_of, own = _features(ranker, less, others[:CANDIDATES]), _features(ranker, asked, found)
    part = zlib.crc32(document.encode()) % FOLDS
    return _Asked(question, asked, less, own, here, less_of, sentences, set_of(asked, found), part)


def _features(ranker: Ranker, asked: Asked, found: Sequence[tuple[Passage, float]]) -> np.ndarray:
    return np.array([ranker.features(asked, *one) for one in found]).reshape(-1, len(PASSAGE))


def _only_in(ranker: Ranker, question: FolderQuestion) -> set[str]:
    """The words of a question that no file has but the one that it is about."""
    if question.passage is None:
        return set()
    lexical, table, out = ranker.lexical, ranker.index.arrays["passages"], set()
    document = table[question.passage.number, 0]
    for word in code_words(question.text):
        if (number := lexical.vocabulary.get(word)) is not None:
            places = lexical.texts[lexical.starts[number] : lexical.starts[number + 1]]
            if (table[places, 0] == document).all():
                out.add(word)
    return out


def _best(asked: Asked, x: np.ndarray, weights: np.ndarray) -> tuple[int, list[float]]:
    """The place of the best candidate, and its features of `ANSWER`."""
    logs = log_softmax(x @ weights[:-1])
    best = int(logs.argmax())
    return best, [*x[best], *Ranker.answer_features(asked, logs)]


def _weights(some: Sequence[_Asked], more: Sequence[_Asked]) -> RankerWeights:
    """Of a set's questions; the weights of sentences are of more: first ones answer most questions of people."""
    passage = softmax_regression([(one.x, one.here) for one in some])
    x, y = [], []
    for one in some:
        people = one.question.sort == "asked"
        for asked, rows, answers in ((one.asked, one.x, one.question.passage is not None), (one.less, one.gone, False)):
            if len(rows) and (answers or not people or asked is one.asked):
                x.append(_best(asked, rows, passage)[1])
                y.append(answers)
    return RankerWeights(
        passage, logistic(np.array(x), np.array(y, float)), softmax_regression([one.sentences for one in more])
    )


def looked_up(
    index: FolderIndex, questions: Sequence[FolderQuestion], method: str, related: Related | None = None
) -> list[_Asked]:
    none = {name: RankerWeights(*(np.zeros(len(names) + 1) for names in PARTS.values())) for name in SETS}
    ranker, out = Ranker(index, method, none, related), list[_Asked]()
    vectors = None if method == "bm25" else index.retriever("dense").queries([one.text for one in questions])
    with progress(f"look up ({method})", len(questions), "questions") as bar:
        for number, question in enumerate(questions):
            if vectors is not None:
                ranker.vector = question.text, vectors[number : number + 1]
            out.append(_looked_up(ranker, question))
            bar.advance()
    return out


def fitted(every: Sequence[_Asked], name: str) -> dict[str, Any]:
    """Weights of a set, and what cross-validation by file measured; all questions count where the set has few."""
    own = [one for one in every if one.set == name]
    own = own if len(own) >= ENOUGH else list(every)
    bare = name == "bare"
    more = own + [
        one for one in every if one.set != name and one.question.sort != "asked" and (one.set == "bare") == bare
    ]
    people = [one for one in own if one.question.sort == "asked"]
    own = people if len(people) >= ENOUGH else own
    if len({one.part for one in own}) < FOLDS:
        raise LlmanacError(
            f"the folders: their files make questions in fewer than {FOLDS} parts; give folders with more files"
        )
    first, lines, kept, refused = [], [], [], []
    for part in range(FOLDS):
        weights = _weights(*([one for one in some if one.part != part] for some in (own, more)))
        for one in (one for one in own if one.part == part):
            for asked, rows, here in ((one.asked, one.x, one.here), (one.less, one.gone, None)):
                best, values = _best(asked, rows, weights.passage) if len(rows) else (0, None)
                odds = -60.0 if values is None else float(weights.answer @ [*values, 1.0])
                if one.question.passage is None or (here is None and not people):
                    refused.append(odds)
                elif here is not None:
                    kept.append(odds)
                    first.append(bool(len(here) and here[best]))
            if one.sentences[1].any():
                lines.append(bool(one.sentences[1][(one.sentences[0] @ weights.sentence[:-1]).argmax()]))
    weights, threshold = _weights(own, more), float(np.quantile(refused, REFUSED))
    weights.answer[-1] -= threshold
    return {
        **{part: _named(names, getattr(weights, part)) for part, names in PARTS.items()},
        "measured": {
            "questions": len(own), "right passage first": round(float(np.mean(first)), 4),
            "right sentence first": round(float(np.mean(lines)), 4),
            "refused without answer": round(float(np.mean(np.array(refused) < threshold)), 4),
            "refused with answer": round(float(np.mean(np.array(kept) < threshold)), 4),
        },
    }  # fmt: skip


def _named(names: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip((*names, "bias"), weights, strict=True)}


def fit(
    folders: Sequence[str | Path],
    asked_in: Sequence[str | Path] = (),
    *,
    encoder: dense.Spec | None = None,
    related_to: Path | None = None,
    questions: int = QUESTIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """What the command writes: weights for `bm25`, and with an encoder for `hybrid`.

    Args:
        asked_in: files of questions that people asked about the first folder; questions: that each folder yields.
        related_to: where the table of related words is written that an encoder makes.
    """
    indexes = [FolderIndex.update(folder, encoder=encoder) for folder in folders]
    related = None if encoder is None or related_to is None else write_related(indexes, encoder.model, related_to)
    asked = [questions_of(index, questions, seed) for index in indexes]
    asked[0] += [one for path in asked_in for one in read_questions(path, indexes[0])]
    made = {}
    for method in ("bm25", *(["hybrid"] if encoder else [])):
        every = [one for pair in zip(indexes, asked, strict=True) for one in looked_up(*pair, method, related)]
        made[method] = {name: fitted(every, name) for name in SETS}
    about = [
        {"folder": Path(folder).resolve().name, "files": len(index.data["records"]), "passages": len(index)}
        for folder, index in zip(folders, indexes, strict=True)
    ]
    people = [Path(path).name for path in asked_in]
    return {"format_version": 2, "text": about, "asked": people, "questions": questions, "seed": seed, "weights": made}


def related_table(indexes: Sequence[FolderIndex], encode: dense.Encode, words: Iterable[str]) -> dict[str, np.ndarray]:
    """Words and those that mean about the same: what `related_words` reads.

    Args:
        words: English ones; those that folders have `OFTEN` are added. A stem has the vector of its first word.
    """
    counts: Counter[str] = Counter()
    for index in indexes:
        for passage in index.passages():
            counts.update(word.lower() for word in _PLAIN.findall(passage.text))
    every = (word for word in (*words, *(word for word, n in counts.most_common() if n >= OFTEN)) if len(word) > 2)
    first: dict[str, str] = {}
    for word in every:
        stems = code_words(word) if word.isascii() and word.isalpha() and word.islower() else []
        if len(stems) == 1 and stems[0] not in STOP:
            first.setdefault(stems[0], word)
    vectors = dense.Dense([*first.values()], encode=encode).vectors.astype(np.float32)
    near, like = np.zeros((len(first), NEAR), np.uint16), np.zeros((len(first), NEAR), np.uint8)
    for number, vector in enumerate(vectors):
        cosines = vectors @ vector
        cosines[number] = -1.0
        best = np.argsort(-cosines, kind="stable")[:NEAR]
        near[number], like[number] = best, np.where(cosines[best] >= LEAST, np.rint(cosines[best] * 255), 0)
    return {"words": np.frombuffer("\n".join(first).encode(), np.uint8), "near": near, "like": like}


def write_related(indexes: Sequence[FolderIndex], model: str, path: Path) -> Related:
    """Write and read the table of related words, of an encoder's vocabulary and the folders' words."""
    from llmanac.evaluate.embed import Embedder

    embedder = Embedder.load(model, normalize=True)
    known = (embedder.tokenizer.decode([i]) for i in range(embedder.tokenizer.vocab_size))
    table = related_table(indexes, lambda texts: embedder.texts(texts).vectors, known)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **table)
    files.write_bytes(path, buffer.getvalue())
    return related_words(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="of documents")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file of weights")
    parser.add_argument("--asked", type=Path, nargs="+", default=[], help="files of questions asked about the first")
    parser.add_argument("--encoder", help="a model's folder, for weights of hybrid retrieval")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        encoder = None if given.encoder is None else dense.Spec(model=str(Path(given.encoder).resolve()))
        found = fit(
            given.folder,
            given.asked,
            encoder=encoder,
            related_to=given.output.with_name("related.npz"),
            questions=given.questions,
            seed=given.seed,
        )
        files.write_json(given.output, found)
    except LlmanacError as error:
        parser.exit(1, f"{error}\n")
    for method, weights in found["weights"].items():
        for name, one in weights.items():
            print(method, name, one["measured"])


if __name__ == "__main__":
    main()
