"""A paged state against the contiguous one, for every name of every kind of model part: the same values, whatever is
read in whatever pieces, selected, joined, forked and rewound; and blocks that are counted right all the while."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from _small_models import VOCABULARY, randomise, tokens
from test_models import CASES, claims, model_of

from llmanac.core.errors import RequestError
from llmanac.core.types import ALL, LAST, Batch
from llmanac.models.state.paged import PagedState
from llmanac.models.state.pool import BlockPool, pageable

ALONE = ("ffn", "norm")  # they see a token at a time: where the past is kept cannot matter to them
PAGED = [case for case in CASES if case[0] not in ALONE and claims(model_of(*case), "page")]
every = pytest.mark.parametrize("kind, name", PAGED, ids=[f"{k}/{n}" for k, n in PAGED])
CLOSE = {"rtol": 0, "atol": 1e-10}


def pool_of(model, block_tokens=3, budget=None):
    return BlockPool(model.start(1), block_tokens=block_tokens, budget=budget)


@every
def test_paged_equals_uncached_in_every_chunking(kind, name):
    model, ids = model_of(kind, name), tokens(2, 6)
    pool = pool_of(model, block_tokens=2)
    with torch.inference_mode():
        full = model(ids).logits
        for cuts in itertools.product([False, True], repeat=5):
            edges = [0, *[i + 1 for i, cut in enumerate(cuts) if cut], 6]
            state = PagedState.start(pool, 2)
            parts = [model(ids[:, a:b], state).logits for a, b in itertools.pairwise(edges)]
            torch.testing.assert_close(torch.cat(parts, 1), full, **CLOSE)
            state.close()
    assert pool.held == 0


@pytest.mark.parametrize("budget", [None, 1 << 24], ids=["gathered anew", "gathered kept"])
@every
def test_paged_equals_contiguous_through_ragged_rows_forks_joins_and_rewinds(kind, name, budget):
    """The same random walk on both states: every logit is the contiguous state's."""
    model = model_of(kind, name)
    rng, pool = random.Random(0), pool_of(model, budget=budget)
    with torch.inference_mode():
        plain, paged = model.start(2), PagedState.start(pool, 2)
        for step in range(24 if budget is None else 60):
            rows = len(plain.lengths)
            moves = ["read", "read", "ragged", "select", "join", "rewind", "fork"]
            move = rng.choice(moves if budget is None else [*moves, "read", "ragged", "part", "part", "arrange"])
            if int(plain.lengths.max()) > 40:
                move = "rewind"
            if move in ("read", "ragged"):
                ids = tokens(rows, rng.randrange(1, 6), seed=step)
                lengths = None
                if move == "ragged":
                    lengths = torch.tensor([rng.randrange(1, ids.shape[1] + 1) for _ in range(rows)])
                batch = Batch(ids=ids, lengths=lengths)
                want = rng.choice([ALL, LAST])
                ours, theirs = model(batch, paged, want).logits, model(batch, plain, want).logits
                for row in range(rows):
                    count = ids.shape[1] if lengths is None or want == LAST else int(lengths[row])
                    torch.testing.assert_close(ours[row, :count], theirs[row, :count], **CLOSE)
            elif move == "part":  # a range of rows goes on without the others
                start = rng.randrange(rows)
                ids = tokens(rows - start, rng.randrange(1, 4), seed=step)
                ours, theirs = (model(ids, state.view(start, rows), LAST).logits for state in (paged, plain))
                torch.testing.assert_close(ours, theirs, **CLOSE)
            elif move == "arrange":
                order = [rng.randrange(rows) for _ in range(rows)]
                plain.arrange(order)
                paged.arrange(order)
            elif move == "select":
                order = torch.tensor([rng.randrange(rows) for _ in range(rng.randrange(1, 4))])
                plain, paged = plain.select(order), paged.select(order)
            elif move == "join" and rows < 4:
                plain, paged = plain.join(plain.select(torch.tensor([0]))), paged.join(paged.select(torch.tensor([0])))
            elif move == "fork":
                other = paged.fork()
                model(tokens(rows, 2, seed=99), other)  # what a fork reads, the first does not see
                if rng.random() < 0.5:
                    other.close()
            elif move == "rewind":
                back = torch.tensor([rng.randrange(int(n) + 1) for n in plain.lengths])
                plain.rewind(None, back)
                paged.rewind(None, back)
                paged.reserve(9)
            assert paged.lengths.tolist() == plain.lengths.tolist() == paged.counts
            del rows
        held = {block for row in paged.blocks for block in row}
        assert paged.nbytes == len(held) * pool.block_bytes
        other = None  # the last fork goes
        assert pool.held == len(held)
        paged.close()
    assert pool.held == 0 and pool.idle == 0 and paged.nbytes == 0


@every
def test_registered_beginnings_are_found_and_never_changed(kind, name):
    model, ids = model_of(kind, name), tokens(1, 20)
    pool = pool_of(model, block_tokens=4)
    text = ids[0].tolist()
    with torch.inference_mode():
        full = model(ids).logits
        first = PagedState.start(pool, 1)
        model(ids[:, :18], first)
        pool.register(first.blocks[0], text[:18])
        first.rewind(None, torch.tensor([6]))  # in the middle of a registered block ...
        model(tokens(1, 5, seed=8), first)  # ... which it must not overwrite
        first.close()
        found = pool.find(text[:18])
        assert len(found) == 4
        second = PagedState(pool, [found], [16])
        torch.testing.assert_close(model(ids[:, 16:], second).logits, full[:, 16:], **CLOSE)
        assert pool.find([*text[:5], text[5] ^ 1, *text[6:18]]) == found[:1]
        pool.release(found[:1])
        second.close()
    assert pool.held == 0 and pool.idle == 4


def small(dtype=torch.float64):
    return model_of("mixer", "grouped-query", dtype)


def test_a_fork_copies_nothing_until_it_writes():
    model = small()
    pool = pool_of(model, block_tokens=8)
    with torch.inference_mode():
        state = PagedState.start(pool, 1)
        model(tokens(1, 20), state)
        assert pool.held == 3
        forks = [state.fork() for _ in range(5)]
        assert pool.held == 3 and len(state.join(forks[0]).blocks) == 2
        model(tokens(1, 1), forks[0])
        assert pool.held == 4 and forks[0].blocks[0][:2] == state.blocks[0][:2]  # only the last block is its own
        for fork in forks:
            fork.close()
            fork.close()
        assert pool.held == 3
        state.close()
        assert pool.held == 0


def test_idle_blocks_stay_within_the_budget_and_the_oldest_go_first():
    model = small()
    probe = pool_of(model, block_tokens=4)
    pool = pool_of(model, block_tokens=4, budget=6 * probe.block_bytes)
    texts = [tokens(1, 12, seed=s) for s in range(4)]
    with torch.inference_mode():
        for number, ids in enumerate(texts):
            state = PagedState.start(pool, 1)
            model(ids, state)
            pool.register(state.blocks[0], ids[0].tolist())
            state.close()
            assert pool.idle == min(3 * (number + 1), 6) and pool.held == 0
            assert pool.nbytes <= 7 * probe.block_bytes  # the budget, and the block of zeros
    assert pool.evictions == 6
    counts = []
    for ids in texts:
        blocks = pool.find(ids[0].tolist())
        counts.append(len(blocks))
        pool.release(blocks)
    assert counts == [0, 0, 3, 3]
    # a long row is never refused: it takes what the idle ones had, and more than the budget
    with torch.inference_mode():
        state = PagedState.start(pool, 1)
        model(tokens(1, 60), state)
        assert pool.idle == 0 and pool.held == 15
        state.close()
    assert pool.nbytes <= 8 * probe.block_bytes and pool.held == 0


def test_part_of_a_beginning_goes_from_its_end():
    model = small()
    probe = pool_of(model, block_tokens=4)
    pool = pool_of(model, block_tokens=4, budget=4 * probe.block_bytes)
    ids = tokens(1, 16)
    with torch.inference_mode():
        state = PagedState.start(pool, 1)
        model(ids, state)
        pool.register(state.blocks[0], ids[0].tolist())
        state.close()
        other = PagedState.start(pool, 1)
        model(tokens(1, 8, seed=5), other)
        other.close()
    assert len(pool.find(ids[0].tolist())) == 2  # the first two blocks are of use without the last two


def test_memory_is_given_back_and_moved_blocks_are_still_found():
    model = small()
    pool = pool_of(model, block_tokens=2)
    ids = tokens(1, 8)
    with torch.inference_mode():
        full = model(ids).logits
        big = PagedState.start(pool, 4)
        model(tokens(4, 40, seed=3), big)
        state = PagedState.start(pool, 1)
        model(ids, state)
        pool.register(state.blocks[0], ids[0].tolist())
        state.close()
        most = pool.nbytes
        big.close()
        assert pool.nbytes < most / 4 and pool.idle == 4
        found = PagedState(pool, [pool.find(ids[0, :6].tolist())], [6])
        torch.testing.assert_close(model(ids[:, 6:], found).logits, full[:, 6:], **CLOSE)
        found.close()
        pool.forget()
    assert pool.idle == 0 and pool.find(ids[0].tolist()) == []


def test_a_block_that_is_taken_again_holds_nothing():
    """Whatever the last holder left, a NaN even, never reaches the next."""
    model, ids = small(), tokens(1, 5)
    pool = pool_of(model, block_tokens=4)
    with torch.inference_mode():
        state = PagedState.start(pool, 1)
        model(tokens(1, 12), state)
        for layer in pool.layers:
            for store in layer.stores if layer is not None else ():
                store[1:].fill_(float("nan"))
        state.close()
        state = PagedState.start(pool, 1)
        torch.testing.assert_close(model(ids, state).logits, model(ids).logits, **CLOSE)


def test_a_state_that_is_forgotten_gives_its_blocks_back():
    model = small()
    pool = pool_of(model)
    with torch.inference_mode():
        state = PagedState.start(pool, 1)
        model(tokens(1, 10), state)
    assert pool.held == 4
    del state
    assert pool.held == 0


def test_a_failed_call_leaves_the_state_usable():
    model, ids = small(), tokens(1, 9)
    pool = pool_of(model)
    with torch.inference_mode():
        state = PagedState.start(pool, 1)
        model(ids[:, :4], state)
        with pytest.raises(RequestError):
            model(torch.tensor([[VOCABULARY + 5] * 7]), state)
        fork = state.fork()  # shares nothing of what the failed call took
        model(tokens(1, 5, seed=4), fork)
        torch.testing.assert_close(model(ids[:, 4:], state).logits, model(ids).logits[:, 4:], **CLOSE)
        state.close()
        fork.close()
    assert pool.held == 0


def test_refusals():
    model, other = small(), randomise(small(), seed=1)
    a, b = PagedState.start(pool_of(model), 1), PagedState.start(pool_of(other), 1)
    with pytest.raises(RequestError, match="two pools"):
        a.join(b)
    with pytest.raises(RequestError, match="two pools"):
        a.join(model.start(1))
    with pytest.raises(RequestError, match="cannot rewind"):
        a.rewind(None, torch.tensor([3]))
    with pytest.raises(RequestError, match="block_tokens"):
        BlockPool(model.start(1), block_tokens=0)
    with pytest.raises(RequestError, match="cannot be kept in blocks"):
        BlockPool(a)
    assert pageable(model.start(1)) and not pageable(a) and not pageable(object())


def test_what_was_gathered_is_kept_within_the_budget_for_rows_that_go_on_together():
    model = small()
    pool = pool_of(model, block_tokens=4, budget=20 * pool_of(model, block_tokens=4).block_bytes)
    with torch.inference_mode():
        state = PagedState.start(pool, 2)
        model(tokens(2, 9), state)
        (held,) = state._gathered
        assert not held.layers  # rows that were read once may not go on together
        for step in range(3):
            model(tokens(2, 1, seed=step), state)
        assert held.layers and held.known == [12, 12]
        state.rewind(None, [5, 7])
        model(tokens(1, 1, seed=9), state.view(1, 2))  # the second row without the first
        assert held not in state._gathered
        model(tokens(2, 70), state)  # 2 x 78 tokens are more than 20 blocks hold
        assert not any(len(other.rows) == 2 for other in state._gathered)
        assert pool.held > 20  # rows that run are never refused a block
        state.arrange([0])
        assert not state._gathered
