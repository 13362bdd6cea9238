"""The policy gradient by enumeration of a small policy, and against TRL's trainers on ragged answers."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from _small_models import gradients, transformer

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.load import load_model
from llmanac.models.scalar import ScalarModel
from llmanac.objectives.policy_gradient import EPSILON, Rollout, by_group, gae, group_spread, optimal_constant

V, LENGTH, PROMPT = 6, 2, (0, 3)
TEXTS = list(itertools.product(range(V), repeat=LENGTH))


def objective(models=None, **fields):
    return make_method("objective", {"name": "policy-gradient", **fields}).build(models=models)


@pytest.fixture(scope="module")
def policy():
    return transformer(vocab_size=V, dim=16, layers=1, max_length=8)


def log_probabilities(model, texts=TEXTS, temperature=1.0):
    """(N, length) of each text's tokens after the prompt."""
    ids = torch.tensor([[*PROMPT, *text] for text in texts])
    logs = (model(Batch(ids=ids[:, :-1])).logits / temperature).log_softmax(-1)
    return logs.gather(-1, ids[:, 1:, None]).squeeze(-1)[:, len(PROMPT) - 1 :]


def reward(text):
    return float(sum(text) % 3 == 0) + 0.3 * text[0]


REWARDS = np.array([reward(text) for text in TEXTS])


def rollouts(model, advantages, texts=TEXTS, **more):
    with torch.no_grad():
        old = log_probabilities(model, texts).numpy()
    return [
        Rollout(
            prompt=PROMPT, completion=text, logprobs=row, advantages=np.broadcast_to(a, (len(text),)),
            **{name: value[i] for name, value in more.items()},
        )
        for i, (text, row, a) in enumerate(zip(texts, old, advantages, strict=True))
    ]  # fmt: skip


def gradient(model, made, rows):
    model.zero_grad()
    made.loss(model, made.collate(rows))[0].backward()
    return gradients(model)


def exact(model, value):
    model.zero_grad()
    value.backward()
    return gradients(model)


def same(found, expected, factor=1.0):
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], factor * grad, rtol=1e-10, atol=1e-12)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-4


def probabilities(model):
    with torch.no_grad():
        return log_probabilities(model).sum(1).exp().numpy()


def expected_reward(model):
    return (log_probabilities(model).sum(1).exp() * torch.from_numpy(REWARDS)).sum()


PLAIN = {"surrogate": "reinforce", "aggregation": "constant", "constant": 1}


@pytest.mark.parametrize("surrogate", ["reinforce", "ppo-clip", "cispo"])
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_gradient_is_that_of_the_expected_reward(policy, surrogate, baseline):
    """Sum over all texts of p(y) times the loss's gradient: exact for every constant baseline (no bias)."""
    p = probabilities(policy)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    made = objective(advantage="none", **{**PLAIN, "surrogate": surrogate, "clip_high": 5.0})
    found = gradient(policy, made, rollouts(policy, p * (REWARDS - baseline)))
    same(found, exact(policy, -expected_reward(policy)))


def pairs_and_their_advantages(kind, p):
    """For all pairs of texts: each text's expected advantage times its probability, over its two places."""
    out = np.zeros(len(p))
    for i, j in itertools.product(range(len(p)), repeat=2):
        a = by_group(kind, REWARDS[[i, j]], [0, 0])
        out[i] += p[i] * p[j] * a[0]
        out[j] += p[i] * p[j] * a[1]
    return out / 2


@pytest.mark.parametrize(("kind", "factor"), [("rloo", 1.0), ("dr-grpo", 0.5)])
def test_leave_one_out_has_no_bias_and_the_group_mean_a_known_one(policy, kind, factor):
    found = gradient(
        policy, objective(**PLAIN), rollouts(policy, pairs_and_their_advantages(kind, probabilities(policy)))
    )
    same(found, exact(policy, -expected_reward(policy)), factor)


def test_bias_of_grpo_is_its_closed_form(policy):
    """With rewards 0 and 1 and n answers: E[A | right] from the binomial; the gradient is a multiple of the truth."""
    n, right = 4, REWARDS > 0.9
    p = float(probabilities(policy)[right].sum())

    def mean(first):  # expected advantage of one answer, given whether it is right
        total = 0.0
        for others in range(n):
            count = others + first
            chance = math.comb(n - 1, others) * p**others * (1 - p) ** (n - 1 - others)
            spread = math.sqrt(count * (1 - count / n) / (n - 1))
            total += chance * (first - count / n) / (spread + EPSILON)
        return total

    sampled = {}
    for first in (0, 1):
        sampled[first] = sum(
            math.prod(p if x else 1 - p for x in rest) * by_group("grpo", np.array([first, *rest], float), [0] * n)[0]
            for rest in itertools.product((0, 1), repeat=n - 1)
        )
        assert sampled[first] == pytest.approx(mean(first), abs=1e-12)
    found = gradient(
        policy, objective(**PLAIN), rollouts(policy, probabilities(policy) * np.where(right, mean(1), mean(0)))
    )
    right_probability = log_probabilities(policy).sum(1).exp()[torch.from_numpy(right)].sum()
    same(found, exact(policy, -right_probability), mean(1) - mean(0))


def one_token(policy):
    return [(v,) for v in range(V)]


@pytest.mark.parametrize(("kind", "towards"), [("k2", "reverse"), ("k3", "forward"), ("k3-ratio", "reverse")])
def test_gradients_of_kl_estimates(policy, kind, towards):
    texts = one_token(policy)
    reference = transformer(vocab_size=V, dim=16, layers=1, max_length=8)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        ref = log_probabilities(reference, texts)
        p = log_probabilities(policy, texts).exp()
    made = objective(advantage="none", kl=kind, kl_weight=1.0, **PLAIN)
    rows = rollouts(policy, np.zeros(V), texts, reference=ref.numpy())
    policy.zero_grad()
    for row, weight in zip(rows, p.squeeze(1), strict=True):
        (weight * made.loss(policy, made.collate([row]))[0]).backward()
    found = gradients(policy)
    logs = log_probabilities(policy, texts)
    kl = (logs.exp() * (logs - ref)).sum() if towards == "reverse" else (ref.exp() * (ref - logs)).sum()
    same(found, exact(policy, kl))


def test_k1_in_the_reward_is_the_reverse_kl(policy):
    texts = one_token(policy)
    with torch.no_grad():
        logs = log_probabilities(policy, texts).squeeze(1)
        ref = logs.flip(0)
    found = gradient(policy, objective(**PLAIN), rollouts(policy, (logs.exp() * -(logs - ref)).numpy(), texts))
    own = log_probabilities(policy, texts).squeeze(1)
    same(found, exact(policy, (own.exp() * (own - ref)).sum()))


def test_first_minibatch_has_ratio_one_and_no_kl_at_any_temperature(policy):
    for temperature in (1.0, 0.6):
        rows = rollouts(policy, REWARDS)
        with torch.no_grad():
            old = log_probabilities(policy, temperature=temperature).numpy()
        rows = [Rollout(**{**vars(row), "logprobs": logs}) for row, logs in zip(rows, old, strict=True)]
        made = objective(temperature=temperature)
        _, units, metrics = made.loss(policy, made.collate(rows))
        for name in ("kl_to_sampling", "clipped", "largest_gap"):
            assert float(metrics[name]) / float(units) == pytest.approx(0, abs=1e-12)
        assert 0 < float(metrics["entropy"]) / float(units) <= math.log(V)


def test_clipping_stops_the_gradient(policy):
    """A token whose ratio has left the interval in the advantage's direction learns nothing; else it does."""
    row = rollouts(policy, [1.0], [(2,)])[0]
    far = {
        sign: Rollout(**{**vars(row), "logprobs": row.logprobs - 1, "advantages": np.array([sign])})
        for sign in (1.0, -1.0)
    }
    made = objective(aggregation="sequence")
    assert all(float(g.abs().max()) == 0 for g in gradient(policy, made, [far[1.0]]).values())
    assert max(float(g.abs().max()) for g in gradient(policy, made, [far[-1.0]]).values()) > 1e-3


def test_gae_on_a_chain():
    """decay 1 is the return minus the value, decay 0 the one-step error; true values leave an advantage of 0."""
    rewards, values = np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.0, -1.0])
    advantages, returns = gae(rewards, values, 0.9, 1.0)
    expected = np.array([1 + 0.9 * 0 + 0.81 * 2, 0 + 0.9 * 2, 2.0])
    np.testing.assert_allclose(returns, expected, atol=1e-12)
    np.testing.assert_allclose(advantages, expected - values, atol=1e-12)
    np.testing.assert_allclose(
        gae(rewards, values, 0.9, 0.0)[0], rewards + 0.9 * np.array([1.0, -1.0, 0.0]) - values, atol=1e-12
    )
    np.testing.assert_allclose(gae(rewards, expected, 0.9, 0.7)[0], 0, atol=1e-12)


def test_gae_with_exact_values_is_the_exact_advantage(policy):
    """On the tree of all texts with V(prefix) = E[R | prefix]: E[A_t | token] is Q - V, for every decay."""
    p = probabilities(policy)
    table = {(): float(p @ REWARDS)}
    for v in range(V):
        here = [i for i, text in enumerate(TEXTS) if text[0] == v]
        table[(v,)] = float(p[here] @ REWARDS[here] / p[here].sum())
    for decay in (0.0, 0.5, 1.0):
        for v in range(V):
            here = [i for i, text in enumerate(TEXTS) if text[0] == v]
            first = [
                gae(np.array([0.0, REWARDS[i]]), np.array([table[()], table[(v,)]]), 1.0, decay)[0][0] for i in here
            ]
            assert np.average(first, weights=p[here]) == pytest.approx(table[(v,)] - table[()], abs=1e-12)


def test_optimal_constant_minimises_the_variance(policy):
    """By enumeration: no other constant gives the score-function estimator a smaller total variance."""
    scores = []
    for text in TEXTS:
        grads = exact(policy, log_probabilities(policy, [text]).sum())
        scores.append(torch.cat([g.flatten() for g in grads.values()]))
    g, p = torch.stack(scores).numpy(), probabilities(policy)
    best = optimal_constant(REWARDS, p * (g**2).sum(1))

    def variance(constant):
        samples = (REWARDS - constant)[:, None] * g
        return float((p @ samples**2).sum() - ((p @ samples) ** 2).sum())

    assert all(variance(best) < variance(best + d) for d in (-0.05, 0.05))
    assert variance(best) <= min(variance(0.0), variance(float(p @ REWARDS)))


def test_value_model_learns_returns_and_is_clipped(policy):
    value = ScalarModel(transformer(vocab_size=V, dim=16, layers=1, max_length=8)).double()
    texts = TEXTS[:5]
    many = {name: np.full((5, LENGTH), x) for name, x in (("returns", 2.0), ("values", 0.0))}
    made = objective({"value": value}, advantage="gae", value_weight=1.0, aggregation="sequence")
    batch = made.collate(rollouts(policy, np.zeros(5), texts, **many))
    loss, units, _ = made.loss(policy, batch)
    ids = torch.tensor([[*PROMPT, *text] for text in texts])[:, :-1]
    found = value.values(Batch(ids=ids))[:, len(PROMPT) - 1 :]
    near = found.clamp(-0.2, 0.2)
    expected = torch.maximum((found - 2) ** 2, (near - 2) ** 2).mean() / 2
    assert float((loss / units).detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    with pytest.raises(SpecError, match="needs a value model"):
        objective(advantage="gae")


def test_groups_without_spread_are_counted():
    assert group_spread(np.array([1.0, 1, 0, 1]), [0, 0, 1, 1]) == 0.5
    assert (by_group("grpo", np.array([1.0, 1.0, 5.0]), [0, 0, 1]) == 0).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """TRL's GRPOTrainer, our model of the same weights, and ragged inputs."""
    transformers = pytest.importorskip("transformers")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import GRPOConfig, GRPOTrainer

    folder = tmp_path_factory.mktemp("grpo")
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i + 3 for i in range(37)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.3, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    theirs.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GRPOTrainer(
            model=str(folder), reward_funcs=lambda completions, **k: [0.0] * len(completions),
            train_dataset=Dataset.from_list([{"prompt": "w1"}] * 4), processing_class=theirs,
            args=GRPOConfig(
                output_dir=str(folder / "out"), per_device_train_batch_size=4, num_generations=4, beta=0.1,
                max_completion_length=9, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
                disable_tqdm=True, model_init_kwargs={"dtype": "float32"}, epsilon=0.1, temperature=0.8,
            ),
        )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    prompts, answers = [3, 5, 4, 6], [9, 2, 7, 4]
    draw = lambda n: torch.randint(3, 40, (n,), generator=generator)  # noqa: E731
    rows = [(draw(a), draw(b)) for a, b in zip(prompts, answers, strict=True)]
    inputs = {name: torch.zeros(4, 6, dtype=torch.long) for name in ("prompt_ids", "prompt_mask")}
    inputs |= {name: torch.zeros(4, 9, dtype=torch.long) for name in ("completion_ids", "completion_mask")}
    for i, (prompt, answer) in enumerate(rows):
        inputs["prompt_ids"][i, 6 - len(prompt) :], inputs["prompt_mask"][i, 6 - len(prompt) :] = prompt, 1
        inputs["completion_ids"][i, : len(answer)], inputs["completion_mask"][i, : len(answer)] = answer, 1
    inputs["advantages"] = torch.tensor([1.3, -0.7, 0.4, -1.0])
    noise = lambda: 0.3 * torch.randn(4, 9, generator=generator)  # noqa: E731
    with torch.no_grad():
        whole = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        own = trainer._get_per_token_logps_and_entropies(trainer.model, whole, seen, 9)[0]
    inputs["old_per_token_logps"], inputs["ref_per_token_logps"] = own + noise(), own + noise()
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    ours = load_model(folder)
    made = [
        Rollout(
            prompt=tuple(prompt.tolist()), completion=tuple(answer.tolist()),
            logprobs=inputs["old_per_token_logps"][i, : len(answer)].numpy(),
            reference=inputs["ref_per_token_logps"][i, : len(answer)].numpy(),
            advantages=np.full(len(answer), float(inputs["advantages"][i])),
        )
        for i, (prompt, answer) in enumerate(rows)
    ]  # fmt: skip
    return trainer, inputs, ours, made


@pytest.mark.parametrize(
    ("theirs", "fields"),
    [
        ({"loss_type": "grpo"}, {"aggregation": "sequence"}),
        ({"loss_type": "bnpo"}, {"aggregation": "micro-tokens"}),
        ({"loss_type": "dapo"}, {"aggregation": "tokens"}),
        ({"loss_type": "dr_grpo"}, {"aggregation": "constant", "constant": 9}),
        ({"loss_type": "grpo", "beta": 0.0}, {"aggregation": "sequence", "kl": "off", "kl_weight": 0.0}),
        ({"loss_type": "grpo", "plain_kl": True}, {"aggregation": "sequence", "kl": "k3"}),
        ({"loss_type": "cispo", "epsilon_high": 1.05, "beta": 0.0},
         {"surrogate": "cispo", "clip_high": 1.05, "kl": "off", "kl_weight": 0.0}),
        ({"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.0},
         {"surrogate": "gspo", "aggregation": "sequence", "kl": "off", "kl_weight": 0.0}),
        ({"loss_type": "grpo", "importance_sampling_level": "sequence"},
         {"surrogate": "gspo", "aggregation": "sequence"}),
    ],
)  # fmt: skip
def test_loss_and_gradient_equal_trl(trained, theirs, fields):
    trainer, inputs, ours, rows = trained
    settings = {"beta": 0.1, "epsilon_low": 0.1, "epsilon_high": 0.1, "importance_sampling_level": "token", **theirs}
    trainer.args.use_bias_correction_kl = not settings.pop("plain_kl", False)
    for name, value in settings.items():
        setattr(trainer, name, value)
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1
    model = trainer.model.train()
    expected = trainer._compute_loss(model, dict(inputs))
    made = objective(
        **{"kl": "k3-ratio", "kl_weight": 0.1, "clip_low": 0.1, "clip_high": 0.1, "temperature": 0.8, **fields}
    )
    loss, units, _ = made.loss(ours, made.collate(rows))
    torch.testing.assert_close(loss / units, expected, rtol=1e-5, atol=1e-6)
    names = dict(model.named_parameters())
    other = dict(zip(names, torch.autograd.grad(expected, list(names.values())), strict=True))
    own = torch.autograd.grad(loss / units, [ours.get_parameter(name) for name in names])
    for (name, grad), found in zip(other.items(), own, strict=True):
        torch.testing.assert_close(found, grad, rtol=1e-4, atol=1e-6, msg=name)
    assert max(float(g.abs().max()) for g in own) > 1e-4
