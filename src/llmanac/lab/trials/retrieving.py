"""A trial that retrieves: one folder of documents, the same questions, and only the retriever differs.

    llmanac compare retriever --arms bm25,dense,hybrid --artefact FOLDER --on QUESTIONS.jsonl -s encoder=MODEL

A row of QUESTIONS has `question` and `relevant`: a document's name below the folder, a list of names, or a table of
names with grades. Documents are ranked by their best passage.

    recall@5    relevant documents among the first 5 / relevant documents                          higher is better
    MRR@10      1 / the place of the first relevant document, 0 beyond the first 10                higher is better
    nDCG@10     sum of grade / log2(place + 1) over the first 10, by that of the best order        higher is better

The replicate is the question. Differences are of few sizes and far from normal, so intervals are bootstrapped and p is
that of all signs of the differences (`stats.BOOTSTRAP`). Cost: seconds a query, after a first round that loads.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.spec import Spec, dump, make, patch
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.cache import digest
from llmanac.lab.runner import Applied, RunnerRequest, Say
from llmanac.lab.sources import run_key
from llmanac.lab.stats import BOOTSTRAP, Metric
from llmanac.lab.study import Measurement
from llmanac.lab.words import plural
from llmanac.retrieve import bm25, dense, hybrid
from llmanac.retrieve.folder import FolderIndex

MEASURE_VERSION = 1
FIRST, DEPTH = 5, 10  # places that recall, and that the other two look at


@dataclass(frozen=True, kw_only=True)
class Documents(Spec):
    """What all arms search.

    Attributes:
        folder: of documents; questions: a table.
        encoder: of the vectors, a folder or hub name; index: where it is kept, FOLDER/.llmanac/index by default.
    """

    folder: str
    questions: str
    encoder: str | None = None
    index: str | None = None


def documents_of(folder: str | Path | None, questions: str | Path | None, changes: Mapping[str, Any]) -> Documents:
    """The base of a comparison of retrievers. Raises SpecError where folder or questions are missing."""
    for flag, value, what in (("artefact", folder, "folder of documents"), ("on", questions, "table of questions")):
        if value is None:
            raise SpecError(f"--{flag}: retrievers are compared on a {what}; name it")
    return patch(make(Documents, {"folder": str(folder), "questions": str(questions)}), changes)


@dataclass(frozen=True)
class RetrievalQuestion:
    """A question, and the grades of the documents that are relevant to it."""

    text: str
    grades: Mapping[str, float]


def read_questions(path: str, documents: Sequence[str]) -> list[RetrievalQuestion]:
    """The questions of a table.

    Raises:
        DataError: by file and line, a row without a question or relevant documents, or a document that is not there.
    """
    known, found = set(documents), []
    for row in table_rows(Path(path), CommandProblems()):
        text, given = row.values.get("question"), row.values.get("relevant")
        names = (
            given
            if isinstance(given, Mapping)
            else dict.fromkeys([given] if isinstance(given, str) else given or [], 1)
        )
        if not isinstance(text, str) or not text.strip() or not names:
            raise DataError(f"{path}:{row.line}: needs `question`, a text, and `relevant`, the names of documents")
        for name, grade in names.items():
            if name not in known:
                raise DataError(f"{path}:{row.line}: the folder has no document {name!r}{nearest(name, known)}")
            if not isinstance(grade, (int, float)) or not grade > 0:
                raise DataError(
                    f"{path}:{row.line}: the grade of {name!r} is {grade!r}; leave out what is not relevant"
                )
        found.append(RetrievalQuestion(text, names))
    if not found:
        raise DataError(f"{path}: has no questions")
    return found


def spec_of(text: ArmText) -> Any:
    """The Spec that an arm names; scores are joined, as `llmanac retrieve` does, where a hybrid leaves that open."""
    spec = methods_of("retriever", text)
    joined = isinstance(spec, hybrid.Spec) and "fusion" not in dict(text.fields)
    return patch(spec, {"fusion": "scores"}) if joined else spec


class RetrievingTrial(Applied):
    """Answers every question with the arm's ranking of documents."""

    metrics: tuple[Metric, ...] = (
        Metric("recall_5", "", "higher", f"recall@{FIRST}"), Metric("mrr", "", "higher", f"MRR@{DEPTH}"),
        Metric("ndcg", "", "higher", f"nDCG@{DEPTH}"),
    )  # fmt: skip
    costs: tuple[Metric, ...] = (Metric("query_seconds", "ms", "lower", "time of a query"),)
    replicate = "question"

    tests = BOOTSTRAP

    def __init__(self, question: RunnerRequest, say: Say) -> None:
        """Raises SpecError: an arm that needs vectors, where the index has none. DataError: see `read_questions`."""
        base, self.arms = question.base, question.arms(spec_of)
        encoder = None if base.encoder is None else make(dense.Spec, {"name": "dense", "model": base.encoder})
        self.index = FolderIndex.update(base.folder, base.index, encoder=encoder, problems=CommandProblems("skip"))
        self.items = read_questions(base.questions, self.index.documents)
        for arm in self.arms:
            parts = [arm.spec.lexical, arm.spec.dense] if isinstance(arm.spec, hybrid.Spec) else [arm.spec]
            if self.index.encoder is None and any(isinstance(p, dense.Spec) and not p.model for p in parts):
                raise SpecError(f"arm {arm.label!r}: the index has no vectors; name an encoder with -s encoder=MODEL")
        self.words = f"{{}} questions over {plural(len(self.index), 'passage')} of {base.folder}."
        self.about = {
            "data": {"folder": base.folder, "questions": base.questions, "passages": len(self.index)},
            "artefact": f"{base.folder}, {plural(len(self.index.documents), 'document')}",
        }

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        return run_key(
            "retrieving", [arm.spec, *filter(None, [self.index.encoder])], (__name__, FolderIndex.__module__),
            measure=MEASURE_VERSION, retriever=dump(arm.spec),
            index=digest([self.index.data["files"], self.index.encoder and dump(self.index.encoder)]),
            questions=digest([[one.text, dict(one.grades)] for one in self.items]),
        )  # fmt: skip

    def retriever(self, spec: Any) -> Any:
        """What a Spec describes, over the passages of the index."""
        if isinstance(spec, bm25.Spec):
            ids, lengths = self.index.arrays["ids"], self.index.arrays["lengths"]
            return bm25.BM25.from_ids(ids, lengths, self.index.words, spec)
        if isinstance(spec, hybrid.Spec):
            return hybrid.Hybrid([self.retriever(spec.lexical), self.retriever(spec.dense)], spec)
        if not spec.model:
            return self.index.retriever("dense")
        return spec.build(texts=[f"{one.heading}\n{one.text}".strip() for one in self.index.passages()])

    def ranking(self, retriever: Any, text: str) -> list[str]:
        """The first documents for a question, by their best passage."""
        depth = 4 * DEPTH
        while True:
            hits = retriever.top(text, depth)
            names = list(dict.fromkeys(self.index[hit.position].document for hit in hits))
            if len(names) >= DEPTH or len(hits) < depth:
                return names[:DEPTH]
            depth *= 4

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Rank the documents for every question, and score the rankings."""
        retriever = self.retriever(arm.spec)
        self.ranking(retriever, self.items[0].text)
        begin = time.perf_counter()
        found = [self.ranking(retriever, one.text) for one in self.items]
        taken = (time.perf_counter() - begin) / len(found)
        pairs = [(names, one.grades) for names, one in zip(found, self.items, strict=True)]
        scores = {"recall_5": recall, "mrr": reciprocal_rank, "ndcg": ndcg}
        values = {name: [score(names, grades) for names, grades in pairs] for name, score in scores.items()}
        return Measurement(values, {"query_seconds": 1000 * taken})


def recall(names: Sequence[str], grades: Mapping[str, float], first: int = FIRST) -> float:
    """The share of relevant documents among the first ones."""
    return len(grades.keys() & set(names[:first])) / len(grades)


def reciprocal_rank(names: Sequence[str], grades: Mapping[str, float]) -> float:
    """1 / the place of the first relevant document; 0 where there is none."""
    return next((1 / place for place, name in enumerate(names, 1) if name in grades), 0.0)


def ndcg(names: Sequence[str], grades: Mapping[str, float], depth: int = DEPTH) -> float:
    """Discounted cumulative gain by that of the best order (Järvelin & Kekäläinen 2002)."""
    best = sorted(grades.values(), reverse=True)
    gained, most = (
        sum(gain / math.log2(place + 1) for place, gain in enumerate(gains[:depth], 1))
        for gains in ([grades.get(name, 0.0) for name in names], best)
    )
    return gained / most
