"""The engine with a prefix cache against the engine without: the same tokens, the same log-probabilities, less work."""

from __future__ import annotations

import random
import threading

import httpx
import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running
from _small_models import block, tokens, transformer
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core.errors import RequestError
from llmanac.generate.engine import Engine

pytestmark = pytest.mark.usefixtures("one_thread")
BYTES = 10**8
VOCABULARY = 260


@pytest.fixture(scope="module")
def model():
    return transformer(vocab_size=VOCABULARY, max_length=300, blocks=block("grouped-query"))


def prompts_of(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts that share beginnings of every length, down to none."""
    rng = random.Random(seed)
    base = tokens(1, 120, seed=seed, below=VOCABULARY)[0].tolist()
    out = []
    for number in range(count):
        shared = rng.choice([0, 1, 15, 16, 17, 33, 64, 120])
        own = tokens(1, rng.randrange(1, 30), seed=100 + number, below=VOCABULARY)[0].tolist()
        out.append(base[:shared] + own)
    return [*out, base, base[:64], base[:65]]


def assert_equal(ours, theirs):
    assert [c.ids for c in ours] == [c.ids for c in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-10)
        assert a.finish_reason == b.finish_reason and a.prompt_ids == b.prompt_ids
        assert [s.logprob for s in a.prompt_token_logprobs[1:]] == pytest.approx(
            [s.logprob for s in b.prompt_token_logprobs[1:]], abs=1e-10
        )


@pytest.mark.parametrize("bytes_", [1, 60_000, BYTES])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "top_p": 0.9, "n": 3, "seed": 5}, {"prompt_logprobs": 2}, {"max_new_tokens": 1}],
    ids=["greedy", "samples", "scored", "one token"],
)
def test_same_tokens_and_log_probabilities(model, options, bytes_):
    """Two rounds over prompts that share beginnings, a few rows at a time, with room for all, little or nothing."""
    plain, cached = Engine(model, rows=4), Engine(model, rows=4, prefix_cache_bytes=bytes_)
    options = {"max_new_tokens": 10, "stop_ids": (), **options}
    for seed in range(2):
        prompts = prompts_of(8, seed)
        for _ in range(2):
            assert_equal(cached.generate(prompts, **options), plain.generate(prompts, **options))
    report = cached.prefix_cache.report()
    assert report["blocks_in_use"] == 0
    if bytes_ == BYTES and "prompt_logprobs" not in options:
        assert report["reused_tokens"] > 0.4 * report["prompt_tokens"]
    if bytes_ == 1:
        assert report["reused_tokens"] == report["blocks_kept"] == 0
    if bytes_ == 60_000:
        assert report["evictions"] > 0 and report["bytes"] <= 60_000 + 2 * cached.prefix_cache.pool.block_bytes


def test_arrivals_and_departures_at_any_time(model):
    """Requests that come and are cancelled between steps; what is left is what each says alone."""
    cached, rng = Engine(model, rows=3, prefix_cache_bytes=200_000), random.Random(1)
    scheduler, waiting, done, gone = cached.scheduler(), prompts_of(20, 3), [], []
    while waiting or scheduler.busy:
        if waiting and rng.random() < 0.5:
            done.append(cached.request(waiting.pop(), max_new_tokens=rng.randrange(12), stop_ids=()))
            scheduler.submit(done[-1])
        scheduler.step()
        if done and rng.random() < 0.1:
            gone.append(rng.choice(done))
            scheduler.cancel(gone[-1])
    plain = Engine(model)
    for request in done:
        if request in gone:
            continue
        expected = plain.generate(list(request.prompt), max_new_tokens=request.max_new_tokens, stop_ids=())[0]
        assert [s.id for s in request.sequences[0].token_logprobs] == expected.ids
    assert cached.prefix_cache.report()["blocks_in_use"] == 0


def test_the_second_prompt_costs_a_fraction(model):
    prompt = tokens(1, 200, below=VOCABULARY)[0].tolist()
    cached = Engine(model, prefix_cache_bytes=BYTES)
    flops = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            cached.generate(prompt, max_new_tokens=1)
        flops.append(counter.get_total_flops())
    assert flops[1] < flops[0] / 10  # 200 tokens, then the 8 that are in no full block
    assert cached.prefix_cache.report()["reused_tokens"] == 192
    with FlopCounterMode(display=False) as counter:
        Engine(model).generate(prompt, max_new_tokens=1)
    assert counter.get_total_flops() == pytest.approx(flops[0], rel=0.01)  # the first costs what it always did


def test_an_answer_is_part_of_the_next_turns_beginning(model):
    cached = Engine(model, prefix_cache_bytes=BYTES)
    first = tokens(1, 40, below=VOCABULARY)[0].tolist()
    said = cached.generate(first, max_new_tokens=40, stop_ids=())[0]
    request = cached.request([*first, *said.ids, 1, 2, 3], max_new_tokens=1)
    scheduler = cached.scheduler()
    scheduler.submit(request)
    scheduler.step()
    assert request.cached_tokens == 64  # of 83, 79 were read before: four full blocks
    assert Engine(model).request(first).cached_tokens is None


def test_samples_of_one_prompt_share_its_blocks(model):
    cached = Engine(model, prefix_cache_bytes=BYTES)
    scheduler = cached.scheduler()
    scheduler.submit(
        cached.request(
            tokens(1, 160, below=VOCABULARY)[0].tolist(), n=8, temperature=1.0, max_new_tokens=9, stop_ids=()
        )
    )
    scheduler.step()
    scheduler.step()
    assert cached.prefix_cache.report()["blocks_in_use"] == 10 + 8
    while scheduler.busy:
        scheduler.step()
    assert cached.prefix_cache.report()["blocks_in_use"] == 0


def test_new_weights_are_noticed():
    """Training on, loading into, or changing the dtype of a model makes what was kept worthless."""
    model = transformer(vocab_size=VOCABULARY, max_length=128)
    cached, prompt = Engine(model, prefix_cache_bytes=BYTES), tokens(1, 60, below=VOCABULARY)[0].tolist()
    options = {"max_new_tokens": 8, "stop_ids": ()}
    cached.generate(prompt, **options)
    for change in (
        lambda: torch.optim.SGD(model.parameters(), lr=0.1).step(),
        lambda: model.load_state_dict({k: v * 1.1 for k, v in model.state_dict().items()}),
        lambda: model.float(),
        lambda: model.double(),
    ):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        change()
        before = cached.prefix_cache.report()["reused_tokens"]
        ours, theirs = cached.generate(prompt, **options), Engine(model).generate(prompt, **options)
        assert ours[0].ids == theirs[0].ids
        assert cached.prefix_cache.report()["reused_tokens"] == before
        assert cached.generate(prompt, **options)[0].ids == theirs[0].ids
        assert cached.prefix_cache.report()["reused_tokens"] == before + 48


def test_nothing_of_another_request_is_seen(model):
    """A prompt that differs in one token of an earlier one's first block shares nothing with it."""
    cached = Engine(model, prefix_cache_bytes=BYTES)
    prompt = tokens(1, 64, below=VOCABULARY)[0].tolist()
    cached.generate(prompt, max_new_tokens=4)
    for place in (0, 15, 16, 40):
        other = [*prompt]
        other[place] = (other[place] + 1) % VOCABULARY
        request = cached.request(other, max_new_tokens=4, stop_ids=())
        scheduler = cached.scheduler()
        scheduler.submit(request)
        while scheduler.busy:
            scheduler.step()
        assert request.cached_tokens == place // 16 * 16
        expected = Engine(model).generate(other, max_new_tokens=4, stop_ids=())[0]
        assert [s.logprob for s in request.sequences[0].token_logprobs] == pytest.approx(expected.logprobs, abs=1e-10)


def test_a_failure_gives_everything_back(model):
    cached = Engine(model, prefix_cache_bytes=BYTES)
    scheduler = cached.scheduler()
    for prompt in prompts_of(5):
        scheduler.submit(cached.request(prompt, max_new_tokens=30, stop_ids=()))
    scheduler.step()
    assert cached.prefix_cache.report()["blocks_in_use"] > 0
    scheduler.reset()
    assert cached.prefix_cache.report()["blocks_in_use"] == 0
    cached.prefix_cache.clear()
    report = cached.prefix_cache.report()
    assert report["blocks_kept"] == 0 and report["bytes"] <= 8 * cached.prefix_cache.pool.block_bytes


def test_two_threads_share_one_cache(model):
    cached, plain = Engine(model, prefix_cache_bytes=150_000), Engine(model)
    expected = {seed: plain.generate(prompts_of(6, seed), max_new_tokens=10, stop_ids=()) for seed in range(3)}
    wrong = []

    def work(seed):
        for _ in range(3):
            found = cached.generate(prompts_of(6, seed), max_new_tokens=10, stop_ids=())
            wrong.extend(a.ids for a, b in zip(found, expected[seed], strict=True) if a.ids != b.ids)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and cached.prefix_cache.report()["blocks_in_use"] == 0


def test_a_stream_that_is_left_gives_its_blocks_back(model):
    cached = Engine(model, prefix_cache_bytes=BYTES)
    pieces = cached.stream(prompts_of(1)[0], max_new_tokens=50, stop_ids=())
    next(pieces)
    assert cached.prefix_cache.report()["blocks_in_use"] > 0
    pieces.close()
    assert cached.prefix_cache.report()["blocks_in_use"] == 0


def test_a_model_without_pages_is_refused_or_served_without():
    with pytest.raises(RequestError, match=r"prefix_cache_bytes: .*cannot be kept in blocks"):
        Engine(HistoryModel(), prefix_cache_bytes=BYTES)
    with pytest.raises(RequestError, match="prefix_cache_bytes: 0"):
        Engine(transformer(), prefix_cache_bytes=0)
    assert not Engine(HistoryModel()).keeps_prefixes
    with running(Engine(HistoryModel(), ByteTokenizer())) as server:
        assert "prefix_cache" not in httpx.get(f"{server.url}/health").json()
        reply = server.client.completions.create(model="tiny", prompt="abc", max_tokens=2)
        assert reply.usage.prompt_tokens_details is None


def test_the_server_reports_what_was_reused(model):
    text = "a system prompt that every request begins with, and then"
    with running(Engine(model, ByteTokenizer())) as server:
        ask = {"model": "tiny", "max_tokens": 5, "temperature": 0, "logprobs": 0}
        first = server.client.completions.create(prompt=text, **ask)
        second = server.client.completions.create(prompt=text, **ask)
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        assert second.usage.prompt_tokens_details.cached_tokens == 48
        assert second.choices[0].text == first.choices[0].text
        assert second.choices[0].logprobs.token_logprobs == pytest.approx(
            first.choices[0].logprobs.token_logprobs, abs=1e-10
        )
        several = server.client.completions.create(prompt=[text, text + " more"], **ask)
        assert several.usage.prompt_tokens_details.cached_tokens == 96
        kept = httpx.get(f"{server.url}/health").json()["prefix_cache"]
        assert kept["budget_bytes"] == 256 * 2**20 and kept["reused_tokens"] == 144
        assert kept["blocks_in_use"] == 0 and kept["blocks_kept"] >= 3 and kept["bytes"] > 0
    with running(Engine(model, ByteTokenizer()), prefix_cache_bytes=0) as server:
        assert "prefix_cache" not in httpx.get(f"{server.url}/health").json()
