"""Mixtures: the closed forms of the papers, and draws that keep to them at every moment, whatever interrupts them."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _builds import digests, dropped, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.cli.data import print_build, print_fate
from llmanac.core import registry, spec
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.mixtures import Domain
from llmanac.data.pipeline import finish, tasks
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.finish import fate
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.data.schedule import Schedule

SHARES = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2),
    st.one_of(st.integers(1, 50).map(Fraction), st.floats(1e-6, 1e6), st.fractions(Fraction(1, 100), 9)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=50, deadline=None)
@given(SHARES, st.lists(st.integers(0, 60), max_size=12))
def test_every_prefix_is_within_one_of_its_share_over_any_interruptions(
    shares: dict[str, Any], pieces: list[int]
) -> None:
    whole = Schedule(shares)
    names = [next(whole) for _ in range(sum(pieces) + 20)]
    # the same draws from a schedule that is thrown away and sought again at every interruption
    resumed: list[str] = []
    state = json.loads(json.dumps(Schedule(shares).state()))
    for piece in [*pieces, 20]:
        again = Schedule(shares)
        again.restore(*state)
        resumed += [next(again) for _ in range(piece)]
        state = json.loads(json.dumps(again.state()))
    assert resumed == names
    exact = {name: Fraction(weight, whole.total) for name, weight in zip(whole.names, whole.weights, strict=True)}
    total = sum(Fraction(share) for share in shares.values())
    for name, share in shares.items():
        assert abs(exact[name] - Fraction(share) / total) <= Fraction(1, 2**50), "the stated shares"
    counts: Counter[str] = Counter()
    for n, name in enumerate(names, 1):
        counts[name] += 1
        for domain, share in exact.items():
            assert abs(counts[domain] - n * share) < 1


def test_drawing_at_random_does_not_keep_within_one() -> None:
    """The control: what the property above holds is not true of independent draws."""
    rng = np.random.default_rng(0)
    drawn = np.cumsum(rng.random(2000) < 0.3)
    assert np.abs(drawn - 0.3 * np.arange(1, 2001)).max() > 5


def test_a_state_of_other_shares_is_refused() -> None:
    schedule = Schedule({"a": 1, "b": 2})
    next(schedule)
    for other in ({"a": 1, "c": 2}, {"a": 1, "b": 3}):
        with pytest.raises(DataError, match="resume with the same shares"):
            Schedule(other).restore(*schedule.state())
    for bad in ({}, {"a": 0.0}, {"a": float("nan")}, {"a": float("inf")}, {"a": -1, "b": 2}):
        with pytest.raises(SpecError, match="are not all positive"):
            Schedule(bad)


DOMAINS = {"a": Domain(1000, 50_000, 1.0), "b": Domain(100, 40_000, 2.0), "c": Domain(10, 1000, 5.0)}


def test_shares_are_the_closed_forms() -> None:
    def shares(name: str, **choices: Any) -> dict[str, float]:
        return dict(make_method("mixture", {"name": name, **choices}).shares(DOMAINS))

    assert shares("proportions") == pytest.approx({"a": 1 / 8, "b": 2 / 8, "c": 5 / 8})
    assert shares("natural") == pytest.approx({"a": 1000 / 1110, "b": 100 / 1110, "c": 10 / 1110})
    assert shares("uniform") == pytest.approx(dict.fromkeys("abc", 1 / 3))
    powers = np.array([50_000, 40_000, 1000.0]) ** 0.3
    assert list(shares("temperature", power=0.3, unit="bytes").values()) == pytest.approx(list(powers / powers.sum()))
    # XLM-R's figure, written as in the paper: q_i = p_i^alpha / sum_j p_j^alpha with p_i = n_i / sum_k n_k
    p = np.array([1000, 100, 10]) / 1110
    assert list(shares("temperature", power=0.7).values()) == pytest.approx(list(p**0.7 / (p**0.7).sum()))
    # UniMax, by hand: of 1110, c takes 4 x 10, b 4 x 100 (half of what is left is more), a what is left
    drawn = {"c": 40.0, "b": min((1110 - 40) / 2, 400.0)}
    drawn["a"] = 1110 - sum(drawn.values())
    assert shares("unimax") == pytest.approx({n: d / 1110 for n, d in drawn.items()})
    assert shares("unimax", budget=30) == pytest.approx(dict.fromkeys("abc", 1 / 3))


@pytest.mark.parametrize("name", sorted(registry.methods("mixture")))
def test_every_mixture_gives_positive_shares_and_round_trips(name: str) -> None:
    if name == "doremi":
        pytest.skip("its weights come out of a file; see test_doremi.py")
    mixture = make_method("mixture", name)
    assert make_method("mixture", spec.dump(mixture)) == mixture
    for unit in ("documents", "bytes"):
        found = spec.patch(mixture, {"unit": unit})
        shares = found.shares(DOMAINS)
        assert sum(shares.values()) == pytest.approx(1)
        assert all(share > 0 for share in shares.values())
        assert found.targets(DOMAINS | {"none": Domain(0, 0)}).keys() == DOMAINS.keys()
    with pytest.raises(SpecError, match="no domain has a document"):
        mixture.targets({"none": Domain(0, 0)})
    with pytest.raises(SpecError, match="epochs: 0"):
        make_method("mixture", {"name": name, "epochs": 0.0})


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    for name, count, size in (("docs", 300, 5), ("code", 120, 20), ("mail", 30, 40)):
        lines = [json.dumps({"text": f"{name} {n} " + "word " * size}) + "\n" for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def recipe(domains: Path, mixture: dict[str, Any], **more: Any) -> Any:
    inputs = [
        {"name": "files", "paths": [str(domains / f"{name}.jsonl")], "domain": name, "weight": weight}
        for name, weight in (("docs", 2.0), ("code", 1.0), ("mail", 1.0))
    ]
    return make_recipe({"inputs": inputs, "mixture": mixture, "shard_bytes": 3000, **more})


def test_a_build_draws_its_domains_in_proportion_from_the_first_to_the_last(domains: Path, tmp_path: Path) -> None:
    output = {"shard_bytes": 2000}
    manifest = build(recipe(domains, {"name": "proportions"}, output=output), tmp_path / "out", workers=2)
    found = [row["meta"]["domain"] for row in rows(tmp_path / "out")]
    assert Counter(found) == manifest["output"]["mixture"]["drawn"]
    assert manifest["output"]["mixture"]["ended_by"] == "mail", "its 30 documents are used up"
    assert 118 <= len(found) <= 123
    assert len(manifest["output"]["files"]) > 3, "the files begin in the middle of the schedule"
    for n in range(1, len(found) + 1):
        counts = Counter(found[:n])
        for name, share in (("docs", 0.5), ("code", 0.25), ("mail", 0.25)):
            assert abs(counts[name] - n * share) < 1
    for name, count in (("docs", 300), ("code", 120), ("mail", 30)):  # nothing twice, drawn from all of the domain
        numbers = [int(r["text"].split()[1]) for r in rows(tmp_path / "out") if r["meta"]["domain"] == name]
        assert len({*numbers}) == len(numbers) and numbers != sorted(numbers)
        assert np.mean(numbers) == pytest.approx(count / 2, rel=0.25)
    build(recipe(domains, {"name": "proportions"}, output=output), tmp_path / "one", workers=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "out")


def test_epochs_repeat_small_domains_and_shares_of_bytes_are_met(domains: Path, tmp_path: Path) -> None:
    manifest = build(recipe(domains, {"name": "uniform", "epochs": 3.0}), tmp_path / "out", workers=1)
    found = rows(tmp_path / "out")
    assert len({row["id"] for row in found}) == len(found)
    assert 270 <= len(found) <= 272, "three domains, each within one of a third"
    assert sum(row["id"].endswith("~3") for row in found) == 30
    assert manifest["output"]["mixture"]["epochs"]["mail"] == pytest.approx(3.0)
    mixture = {"name": "uniform", "unit": "bytes", "epochs": 2.0}
    build(recipe(domains, mixture), tmp_path / "bytes", workers=1)
    sizes: Counter[str] = Counter()
    for row in rows(tmp_path / "bytes"):
        sizes[row["meta"]["domain"]] += len(row["text"])
    assert all(size / sizes.total() == pytest.approx(1 / 3, abs=0.01) for size in sizes.values())
    limited = build(recipe(domains, {"name": "uniform", "documents": 50}), tmp_path / "fifty", workers=1)
    assert limited["output"]["documents"] == len(rows(tmp_path / "fifty")) == 50
    mixed, passed = limited["output"]["mixture"], limited["stages"][-1]["documents_out"]
    assert sum(mixed["drawn"].values()) + sum(mixed["not_drawn"].values()) == passed, "what was not drawn is counted"


def test_what_is_not_drawn_is_listed_and_an_id_that_is_none_is_told_from_it(
    domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mixture = tmp_path / "out", {"name": "uniform", "documents": 50}
    manifest = build(recipe(domains, mixture), out, workers=1)
    kept, aside = {row["id"] for row in rows(out)}, dropped(out)
    everything = {f"{name}/{name}.jsonl:{n + 1}" for name, of in (("docs", 300), ("code", 120), ("mail", 30))
                  for n in range(of)}  # fmt: skip
    assert kept | {line["id"] for line in aside} == everything and len(kept) + len(aside) == len(everything)
    assert {line["reason"] for line in aside} == {"not_drawn"} and "text" not in aside[0]
    assert [file["name"] for file in manifest["lists"]] == ["01-mixture.jsonl"]
    print_fate(out, "docs/docs.jsonl:300")
    said = capsys.readouterr().out
    assert "docs/docs.jsonl:300: passed every stage and was not drawn by the mixture (1" in said
    assert "of 300 documents of the domain docs were drawn" in said
    with pytest.raises(DataError, match=r"no document is called 'docs.jsonl:300'; did you mean 'docs/docs.jsonl:300'"):
        fate(out, "docs.jsonl:300")
    with pytest.raises(DataError, match=r"no document is called 'mial/mail.jsonl:3'; did you mean 'mail/mail.jsonl:3'"):
        fate(out, "mial/mail.jsonl:3")
    with pytest.raises(DataError, match="no document is called 'q'; 50 documents were written"):
        fate(out, "q")
    before = digests(out)
    (out / "dropped" / "01-mixture.jsonl").unlink()
    build(recipe(domains, mixture), out, workers=2)
    assert digests(out) == before, "a list that is gone is made again"
    build(recipe(domains, mixture, output={"dropped": "texts"}), tmp_path / "texts", workers=1)
    assert all(line["text"].startswith(line["id"].partition("/")[0]) for line in dropped(tmp_path / "texts"))


@pytest.mark.parametrize("unit", ["documents", "bytes"])
def test_what_is_printed_of_a_mixture_says_what_its_shares_are_of(
    unit: str, domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = build(recipe(domains, {"name": "uniform", "unit": unit}), tmp_path / "out", workers=1)
    found = rows(tmp_path / "out")
    sizes: Counter[str] = Counter()
    for row in found:
        sizes[row["meta"]["domain"]] += len(row["text"])
    assert manifest["output"]["mixture"]["bytes"] == sizes
    print_build(tmp_path / "out", manifest)
    printed = capsys.readouterr().out
    assert f" of the {unit};" in printed  # the head; a domain's line names the unit first
    drawn = sum(row["meta"]["domain"] == "docs" for row in found)
    both = [f"{drawn / len(found):.1%} of the documents", f"{sizes['docs'] / sizes.total():.1%} of the bytes"]
    target = manifest["output"]["mixture"]["targets"]["docs"]
    assert target == pytest.approx(1 / 3)
    both = both if unit == "documents" else both[::-1]
    assert f"  docs: target {target:.1%}, written {', '.join(both)}; {drawn:,} drawn" in printed


def test_shares_of_bytes_are_met_where_long_documents_come_last(tmp_path: Path) -> None:
    """Sizes grow a hundredfold along the file: the mean says little of the documents drawn."""
    for name, count in (("even", 150), ("growing", 200)):
        sizes = [50 if name == "even" else 1 + n for n in range(count)]
        lines = [json.dumps({"text": f"{name} {n} " + "word " * size}) + "\n" for n, size in enumerate(sizes)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    inputs = [{"name": "files", "paths": [str(tmp_path / f"{n}.jsonl")], "domain": n} for n in ("even", "growing")]
    found = {}
    for seed, workers, shard in ((0, 1, 200_000), (1, 2, 30_000)):
        mixture = {"name": "temperature", "power": 0.5, "unit": "bytes", "seed": seed}
        made = make_recipe(
            {"inputs": inputs, "mixture": mixture, "shard_bytes": shard, "output": {"shard_bytes": 9000}}
        )
        out = tmp_path / f"{seed}-{workers}"
        manifest = build(made, out, workers=workers)["output"]
        mixed, written = manifest["mixture"], rows(out)
        totals = {"even": 0, "growing": 0}
        for row in [*written, *dropped(out)]:
            number = int(row["id"].rpartition(":")[2]) - 1
            name = row["id"].partition("/")[0]
            totals[name] += len(f"{name} {number} " + "word " * (50 if name == "even" else 1 + number))
        roots = {name: size**0.5 for name, size in totals.items()}
        whole = sum(mixed["bytes"].values())
        for name, root in roots.items():
            assert mixed["targets"][name] == pytest.approx(root / sum(roots.values()), rel=1e-6)
            assert mixed["bytes"][name] == pytest.approx(mixed["targets"][name] * whole, abs=1100), "one document"
        assert len(manifest["files"]) > 3, "the files begin in the middle of the schedule"
        found[seed] = [row["id"] for row in written]
    assert found[0] != found[1]


def test_what_is_to_be_ordered_and_is_gone_is_made_again(domains: Path, tmp_path: Path) -> None:
    shards = [{"base": "work/pass-0/00000/00000", "documents": 1, "bytes": 1, "input": 0}]
    with pytest.raises(tasks.Gone):
        finish.plan_output(tmp_path, recipe(domains, {"name": "uniform"}), shards)
