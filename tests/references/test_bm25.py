"""BM25 against rank_bm25 and bm25s: the same scores, the same best texts; an index on disk is the index."""

from __future__ import annotations

import random

import bm25s
import numpy as np
import pytest
import rank_bm25

from llmanac import build
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.spec import dump, make_method
from llmanac.retrieve import Hit
from llmanac.retrieve._vocabulary import Vocabulary
from llmanac.retrieve._words import code_words, plain_words
from llmanac.retrieve.bm25 import BM25, Spec


def corpus(seed: int, texts: int = 60, vocabulary: int = 40) -> list[list[str]]:
    """Ragged texts of skewed words, so that some words stand in nearly every text and their okapi idf is negative."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(vocabulary)]
    weights = [1 / (i + 1) for i in range(vocabulary)]
    return [rng.choices(words, weights, k=rng.randint(1, 50)) for _ in range(texts)]


def queries(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [[f"w{rng.randrange(45)}" for _ in range(rng.randint(1, 8))] for _ in range(25)] + [["w0", "w0", "w3"]]


def plain_scores(index: BM25, query: list[str]) -> np.ndarray:
    """What `scores` returns, in array operations."""
    known = [index.vocabulary[word] for word in query if word in index.vocabulary]
    slices = [slice(index.starts[i], index.starts[i + 1]) for i in known]
    if not slices:
        return np.zeros(len(index))
    texts = np.concatenate([index.texts[s] for s in slices])
    return np.bincount(texts, np.concatenate([index.weights[s] for s in slices]), minlength=len(index))


def plain_top(index: BM25, query: list[str], k: int) -> list[Hit]:
    """What `top` returns, by sorting all scores."""
    scores = plain_scores(index, query)
    order = np.lexsort((np.arange(len(index)), -scores))[:k]
    return [Hit(int(i), float(scores[i])) for i in order if scores[i] != 0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("k1", "b", "epsilon"), [(1.5, 0.75, 0.25), (0.9, 0.4, 0.1), (2.0, 0.0, 0.25), (1.2, 1.0, 0.5)]
)
def test_okapi_scores_equal_rank_bm25(seed: int, k1: float, b: float, epsilon: float) -> None:
    texts = corpus(seed)
    ours = BM25(texts, Spec(variant="okapi", k1=k1, b=b, epsilon=epsilon))
    peer = rank_bm25.BM25Okapi(texts, k1=k1, b=b, epsilon=epsilon)
    assert (ours.idf[[ours.vocabulary[w] for w in peer.idf]] - list(peer.idf.values())) == pytest.approx(0, abs=1e-12)
    for query in queries(seed):
        np.testing.assert_allclose(ours.scores(query), peer.get_scores(query), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (1.2, 1.0)])
def test_lucene_scores_and_ranking_equal_bm25s(seed: int, k1: float, b: float) -> None:
    texts = corpus(seed)
    ours = BM25(texts, Spec(k1=k1, b=b))
    peer = bm25s.BM25(method="lucene", k1=k1, b=b)
    peer.index(texts, show_progress=False)
    for query in queries(seed):
        known = [word for word in query if word in ours.vocabulary]
        if not known:
            assert not ours.scores(query).any()
            continue
        theirs = peer.get_scores(known)
        np.testing.assert_allclose(ours.scores(query), theirs, rtol=1e-5, atol=1e-6)
        hits = ours.top(query, 10)
        best = np.sort(theirs[theirs > 0])[::-1][:10]
        np.testing.assert_allclose([hit.score for hit in hits], best, rtol=1e-5)


def test_further_variants_equal_rank_bm25_and_bm25s() -> None:
    for seed, (k1, b, delta) in enumerate([(1.5, 0.75, 0.5), (0.9, 0.4, 1.0), (1.2, 1.0, 0.3)]):
        texts = corpus(seed)
        once = [list(dict.fromkeys(text)) for text in texts]
        plus = rank_bm25.BM25Plus(texts, k1=k1, b=b, delta=delta)
        long = rank_bm25.BM25L(once, k1=k1, b=b, delta=delta)
        for variant, method in (("robertson", "robertson"), ("plus", "bm25+"), ("l", "bm25l")):
            ours = BM25(texts, Spec(variant=variant, k1=k1, b=b, delta=delta))  # type: ignore[arg-type]
            peer = bm25s.BM25(method=method, k1=k1, b=b, delta=delta, dtype="float64")
            peer.index(texts, show_progress=False)
            for query in queries(seed):
                known = [word for word in query if word in ours.vocabulary]
                if known:
                    np.testing.assert_allclose(ours.scores(query), peer.get_scores(known), rtol=1e-5, atol=1e-5)
                    hits = ours.top(query, 3)
                    np.testing.assert_allclose([h.score for h in hits], [ours.scores(query)[h.position] for h in hits])
                if variant == "plus":
                    np.testing.assert_allclose(ours.scores(query), plus.get_scores(query), rtol=1e-6, atol=1e-6)
        single = BM25(once, Spec(variant="l", k1=k1, b=b, delta=delta))
        for word in ("w0", "w3", "w20"):
            theirs, found = long.get_scores([word]), single.scores([word])
            held = theirs > 0
            np.testing.assert_allclose(found[held], theirs[held], rtol=1e-6)
            assert np.ptp(found[~held], axis=None) < 1e-9 if (~held).any() else True
    with pytest.raises(SpecError, match="delta"):
        Spec(delta=-1)


@pytest.mark.parametrize("variant", ["lucene", "okapi"])
def test_compiled_form_equals_the_plain_one(variant: str) -> None:
    for seed in range(4):
        index = BM25(corpus(seed), Spec(variant=variant))  # type: ignore[arg-type]
        for query in queries(seed):
            np.testing.assert_array_equal(index.scores(query), plain_scores(index, query))
            for k in (1, 2, 7, 60, 99):
                assert index.top(query, k) == plain_top(index, query, k)


def test_words_are_numbered_as_by_a_dict() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("ab\u00e9\u4e16\U0001f600\ud800", k=rng.randint(0, 6))) for _ in range(6000)]
    texts = [rng.choices(words, k=rng.randint(0, 60)) for _ in range(700)]
    known: dict[str, int] = {}
    expected = [known.setdefault(word, len(known)) for text in texts for word in text]
    vocabulary = Vocabulary()
    ids, lengths = vocabulary.read(texts)
    assert ids.tolist() == expected
    assert lengths.tolist() == [len(text) for text in texts]
    assert vocabulary.words() == list(known)
    again, _ = vocabulary.read(iter([["new", texts[0][0]]]))
    assert again.tolist() == [len(known), known[texts[0][0]]]
    assert len(Vocabulary().read([])[0]) == 0
    assert Vocabulary().words() == []
    with pytest.raises(DataError, match=r"U\+0000"):
        BM25([["a\0b"]])


def test_threads_do_not_disturb_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    index = BM25(corpus(1, texts=2000))
    asked = queries(1) * 40
    alone = [plain_top(index, query, 5) for query in asked]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: index.top(query, 5), asked)) == alone


def test_the_two_variants_differ() -> None:
    texts = corpus(0)
    assert not np.allclose(BM25(texts).scores(["w0"]), BM25(texts, Spec(variant="okapi")).scores(["w0"]))


def test_formula_by_hand() -> None:
    index = BM25([["a", "a", "b"], ["b"], ["c"]])
    idf = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 1.5 * (1 - 0.75 + 0.75 * 3 / (5 / 3)))
    assert index.scores(["a"])[0] == pytest.approx(expected, rel=1e-6)
    assert index.scores(["a", "a"])[0] == pytest.approx(2 * expected, rel=1e-6)


def test_top_breaks_ties_by_place_and_leaves_out_what_does_not_match() -> None:
    index = BM25([["x"], ["y"], ["x"], ["x"], ["z"]])
    assert [hit.position for hit in index.top(["x"], 2)] == [0, 2]
    assert [hit.position for hit in index.top(["x"], 99)] == [0, 2, 3]
    assert index.top(["unknown"], 3) == []
    assert index.top(["x"], 0) == []
    assert BM25([]).top(["x"], 3) == []


def test_rarer_words_and_shorter_texts_win() -> None:
    index = BM25([["common", "rare"], ["common", "common"], ["common", *["other"] * 30]])
    assert index.top(["common", "rare"], 1)[0].position == 0
    assert index.scores(["common"])[1] > index.scores(["common"])[2]


@pytest.mark.parametrize("variant", ["lucene", "okapi"])
def test_saved_index_is_the_same_index(tmp_path, variant) -> None:  # type: ignore[no-untyped-def]
    index = BM25(["shutil.copytree copies a tree", "os.remove", ""], Spec(variant=variant, k1=1.1))
    index.save(tmp_path / "index")
    back = BM25.load(tmp_path / "index")
    assert back.spec == index.spec
    assert list(back.vocabulary) == list(index.vocabulary)
    for query in ("copytree", "remove a tree", "nothing"):
        np.testing.assert_array_equal(index.scores(query), back.scores(query))
        assert index.top(query, 3) == back.top(query, 3)


def test_damaged_index_names_its_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    index = BM25(["a b", "c"])
    index.save(tmp_path / "index")
    file = tmp_path / "index" / "index.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"index\.safetensors"):
        BM25.load(tmp_path / "index")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"index\.safetensors"):
        BM25.load(tmp_path / "index")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        BM25.load(tmp_path / "nowhere")


def test_built_by_name_with_choices() -> None:
    index = build("retriever", "bm25", texts=["one text", "another"], k1=1.2)
    assert index.spec.k1 == 1.2
    assert len(index) == 2
    assert make_method("retriever", "bm25-okapi").variant == "okapi"
    assert make_method("retriever", dump(index.spec)) == index.spec
    with pytest.raises(SpecError, match=r"b: 1\.5 must be from 0 to 1"):
        Spec(b=1.5)
    with pytest.raises(SpecError, match="k1"):
        build("retriever", "bm25", k=2)


def test_code_words_give_names_and_their_parts() -> None:
    assert code_words("shutil.copyTree") == ["shutil.copytree", "shutil", "copytre", "copi", "tree"]
    assert code_words("os.path.is_dir") == ["os.path.isdir", "path.isdir", "os", "path", "isdir", "is", "dir"]
    assert code_words("HTTPServer raises ValueErrors") == [
        "httpserver",
        "http",
        "server",
        "rais",
        "valueerror",
        "valu",
        "error",
    ]
    assert code_words("a_b x2 this class has") == ["ab", "a", "b", "x2", "x", "2", "thi", "class", "ha"]
    assert code_words("naïve Größe") == code_words("nai\u0308ve größe") == ["naïve", "grösse"]
    assert code_words("STRASSE") == code_words("straße") == ["strass"]
    assert code_words("Move_To_End")[0] == code_words("movetoend")[0] == code_words("MoveToEnd")[0]
    assert code_words("東京タワーは高い。") == ["東京", "京タ", "タワ", "ワー", "ーは", "は高", "高い"]
    assert code_words("ไทย ok 駅") == ["ไท", "ทย", "ok", "駅"]
    assert plain_words("a_b.C d") == ["a_b", "c", "d"]


def large(seed: int, variant: str = "lucene") -> tuple[BM25, list[list[str]]]:
    """An index of 30,000 short texts of skewed words, a third of them copies, so that ties are met; and queries."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, 3001)
    lengths = rng.integers(1, 20, 20_000)
    ids = np.split(rng.choice(3000, lengths.sum(), p=chance / chance.sum()), np.cumsum(lengths)[:-1])
    ids += [ids[i] for i in rng.integers(0, len(ids), 10_000)]
    words = [f"w{i}" for i in range(3000)]
    index = BM25.from_ids(
        np.concatenate(ids),
        np.array(list(map(len, ids))),
        words,
        Spec(variant=variant, delta=1.0),  # type: ignore[arg-type]
    )
    asked = [
        [words[i] for i in (*rng.choice(ids[rng.integers(len(ids))], 3), *rng.choice(60, rng.integers(5)))]
        for _ in range(40)
    ]
    return index, asked


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("variant", ["lucene", "robertson", "okapi", "plus", "l"])
def test_words_that_are_not_read_change_nothing(seed: int, variant: str) -> None:
    index, asked = large(seed, variant)
    places, scores = index.search(asked, 10)
    read = 0
    for query, place, score in zip(asked, places, scores, strict=True):
        expected = plain_top(index, query, 10)
        least = index._everywhere(index._known(query))
        assert place[place >= 0].tolist() == [hit.position for hit in expected]
        assert score[place >= 0].tolist() == [hit.score + least for hit in expected]
        assert [Hit(*pair) for pair in zip(place.tolist(), score.tolist(), strict=True)][: len(expected)] == index.top(
            query, 10
        )
        read += len(expected)
    assert read > 300 and not index._memory()[0].any()


def test_postings_that_cannot_matter_are_not_read() -> None:
    """One posting of the most frequent word is made large behind the index's back: a search that reads it shows it."""
    index, asked = large(0)
    asked = [["w0", "w1", *rare] for rare in (["w200", "w300"], ["w500", "w900", "w400"], ["w700", "w250"])]
    places, scores = index.search(asked, 5)
    rare = np.concatenate([index.texts[slice(*index.starts[i : i + 2])] for i in (200, 300, 500, 900, 400, 700, 250)])
    start, stop = index.starts[0], index.starts[1]
    only = start + int(np.flatnonzero(~np.isin(index.texts[start:stop], rare))[0])
    index.weights[only] = 1000.0
    again, same = index.search(asked, 5)
    assert again.tolist() == places.tolist() and same.tolist() == scores.tolist()
    assert index.top(["w0", "w1"], 1)[0].position == index.texts[only]
