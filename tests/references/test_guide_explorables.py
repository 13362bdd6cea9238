"""Explorables show the package's numbers: each page's own functions, at 20 random settings, against the library."""

from __future__ import annotations

import base64
import json
import math
import random
import types

import numpy as np
import pytest
import sacrebleu
import torch
import torch.nn.functional as F
from _explorables import computed, controls, needs_node
from scipy.optimize import brentq
from scipy.stats import binom, entropy

from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest
from llmanac.guide import calculate
from llmanac.guide.explorables import FOLDER, explorables

pytestmark = needs_node
COUNT = 20
CHAPTERS = FOLDER.parent / "chapters"
WORDS = [
    "the",
    "model",
    "a",
    "token",
    "reads",
    "writes",
    "loss",
    "of",
    "attention",
    "and",
    "prompt",
    "answer",
    "learns",
    "from",
    "its",
    "data",
    "with",
]


def uniform(seed):
    """The pages' random numbers: a counter, mixed."""
    state = seed & 0xFFFFFFFF
    while True:
        state = (state + 0x9E3779B9) & 0xFFFFFFFF
        yield mixed(state) / 2**32


def mixed(z):
    z = ((z ^ (z >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    z = ((z ^ (z >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return z ^ (z >> 16)


def normals(count, seed):
    draw, found = uniform(seed), []
    while len(found) < count:
        size, turn = math.sqrt(-2 * math.log(1 - next(draw))), 2 * math.pi * next(draw)
        found += [size * math.cos(turn), size * math.sin(turn)]
    return np.array(found[:count])


def text(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def kept(logits, v):
    """Through the package's own methods, in the order of the page."""
    steps = [("temperature", {"temperature": v["temperature"]})]
    steps += [("top-k", {"k": v["topK"]})] if v["topK"] else []
    steps += [("top-p", {"p": v["topP"]})] if v["topP"] < 1 else []
    steps += [("min-p", {"m": v["minP"]})] if v["minP"] else []
    x = np.array([logits], np.float32)
    for name, choices in steps:
        x = np.asarray(make_method("decoding", {"name": name, **choices}).build()(x, ()))
    return torch.softmax(torch.tensor(x[0], dtype=torch.float64), -1).numpy()


def sampling(v):
    logits = [float(x) for x in v["logits"].split()]
    after = kept(logits, v)
    before = torch.softmax(torch.tensor(logits, dtype=torch.float64), -1).numpy()
    bits = [entropy(p, base=2) for p in (before, after)]
    return {"before": before, "after": after, "kept": int((after > 0).sum()), "bits": bits}


def scaled_softmax(v):
    d = 2 ** v["power"]
    x = torch.tensor(normals(d * (v["keys"] + 1), v["seed"]))
    q, k = x[:d][None, None], x[d:].view(1, v["keys"], d)
    eye = torch.eye(v["keys"], dtype=torch.float64)[None]
    found = {}
    for name, scale in (("scaled", None), ("without", 1.0)):
        weights = F.scaled_dot_product_attention(q[0], k, eye, scale=scale)[0, 0]
        scores = (q[0] @ k.mT)[0, 0] * (scale or d**-0.5)
        top = int(weights.argmax())
        slopes = torch.autograd.functional.jacobian(lambda s: s.softmax(-1), scores)
        found[name] = {"weights": weights.numpy(), "spread": float(scores.std(unbiased=False)),
                       "top": float(weights[top]), "slope": float(slopes[top, top])}  # fmt: skip
    return found


def llama(**choices):
    base = {"model_type": "llama", "max_position_embeddings": 8192, "head_dim": 128, "tie_word_embeddings": False}
    return {**base, **choices}


def described(tmp, config):
    (tmp / "config.json").write_text(json.dumps(config))
    return calculate.read(tmp / "config.json")


def kv_cache(v, tmp):
    config = llama(vocab_size=256, hidden_size=256, intermediate_size=256, head_dim=v["size"],
                   num_hidden_layers=v["layers"], num_attention_heads=v["kv"], num_key_value_heads=v["kv"])  # fmt: skip
    found = calculate.costs(described(tmp, config).spec, 256)
    each = {"float32": 4, "bfloat16": 2, "int8": 1}[v["dtype"]]
    return {"token": found.state_bytes(1, 4) * each / 4,
            "total": v["rows"] * found.state_bytes(2 ** v["length"], 4) * each / 4}  # fmt: skip


def memory(v, tmp):
    sizes = {"vocab_size": v["vocab"], "hidden_size": v["dim"], "intermediate_size": v["ffn"]}
    config = llama(**sizes, num_hidden_layers=v["layers"],
                   num_attention_heads=v["heads"], num_key_value_heads=v["kv"])  # fmt: skip
    model = described(tmp, config)
    found = calculate.bytes_of(model, length=1, optimizer=v["optimizer"])
    return {"parameters": found.trained // 4, "used": found.weights, "weights": found.trained,
            "gradients": found.gradients, "optimizer": found.optimizer}  # fmt: skip


def rope(v):
    from llmanac.models.positions.rope import Spec

    d, base = 2 ** v["power"], round(10 ** v["base"])
    made = Spec(theta=float(base)).build(head_dim=d)

    def score(position):
        angles = made.prepare(torch.tensor([[position, position - v["away"]]]), torch.float64)
        q, k = made.rotate(torch.full((1, 2, 1, d), d**-0.5, dtype=torch.float64), angles)[0, :, 0]
        return float(q @ k)

    return {"score": score(v["position"]), "there": score(v["position"] + 1000),
            "waves": (2 * math.pi / made.frequencies.double().flatten()).numpy()}  # fmt: skip


def lora(v):
    n = 12
    left, right = (np.linalg.qr(normals(n * n, 3 * v["seed"] + i).reshape(n, n).T) for i in (1, 2))
    left, right = (q * np.sign(np.diag(r)) for q, r in (left, right))  # Gram-Schmidt keeps directions
    change = torch.tensor(left @ np.diag(4 * v["decay"] ** np.arange(n)) @ right.T)
    found = torch.linalg.svdvals(change)
    a = torch.tensor(normals(v["rank"] * n, 3 * v["seed"] + 3).reshape(-1, n) / math.sqrt(n), requires_grad=True)
    b = torch.zeros(n, v["rank"], dtype=torch.float64, requires_grad=True)
    optimizer, path, whole = torch.optim.SGD([a, b], lr=0.05), [], float(change.square().sum())
    for _ in range(v["steps"] + 1):
        optimizer.zero_grad()
        missed = (b @ a - change).square().sum()
        path.append(missed.item() / whole)
        (0.5 * missed).backward()
        optimizer.step()
    return {"values": found.numpy(), "best": float(found[v["rank"] :].square().sum()) / whole, "path": path,
            "reached": path[-1], "parameters": a.numel() + b.numel()}  # fmt: skip


def quantize(v):
    x = normals(256, v["seed"])
    if v["outlier"]:
        x[0] = v["outlier"]
    size = 2 ** v["power"]
    weight = torch.tensor(x, dtype=torch.float32).view(-1, size)
    choices = {"nf4": {"name": "nf4", "block": size, "scales": "float32"}, "int8": {"name": "int8"}}.get(v["method"])
    if choices is None:
        most = 2 ** (int(v["method"][0]) - 1) - 1
        scale = weight.abs().amax(1, keepdim=True)
        read, bits = (weight / scale * most).round() / most * scale, int(v["method"][0]) + 32 / size
    else:
        packed = make_method("quantizer", choices).build().pack(weight.clone())
        read, bits = packed.dense(torch.float32), 8 * packed.stored / weight.numel()
    gap = (read - weight).double()
    return {"read": read.flatten().numpy(), "bits": bits, "error": float(gap.norm() / weight.double().norm()),
            "largest": float(gap.abs().max())}  # fmt: skip


def dpo(v):
    found = {"gap": v["chosen"] - v["rejected"]}
    for name, loss in (("dpo", "sigmoid"), ("ipo", "ipo")):
        smoothing = v["smoothing"] if loss == "sigmoid" else 0.0
        made = make_method("objective", {"name": "dpo", "loss": loss, "beta": v["beta"], "label_smoothing": smoothing})
        objective = made.build(reader=types.SimpleNamespace(encode=None, encode_all=None))
        own = torch.tensor([float(v["chosen"]), float(v["rejected"])], dtype=torch.float64, requires_grad=True)
        objective.log_probabilities = lambda model, batch, own=own: (own, torch.ones(2))
        objective.reference = lambda model, batch: torch.zeros(2, dtype=torch.float64)
        objective.halves = lambda values: (values[:1], values[1:])
        total, count, _ = objective.loss(None, None)
        (total / count).backward()
        found[name], slope = float(total / count), float(own.grad[0])
        found["slope" if name == "dpo" else "ipoSlope"] = slope
    return found


def grpo(v):
    from llmanac.objectives.policy_gradient import by_group

    rewards = np.array([float(x) for x in v["rewards"].split()])
    return {"rewards": rewards, "advantages": by_group(v["kind"], rewards, [0] * len(rewards))}


def scaling_law(v):
    from llmanac.lab.scaling.law import Law

    m = json.loads(explorables()["scaling_law"].numbers())
    if v["floor"] != "our fit":
        m["alpha"] = m["beta"] = (m["alpha"] + m["beta"]) / 2
    law, flops = Law(**m), 10 ** v["compute"]
    n, d = law.best(flops)
    chosen = n * 10 ** v["size"]
    return {"n": n, "d": d, "least": law.loss(n, d), "loss": law.loss(chosen, flops / 6 / chosen)}


def pipeline(v):
    from llmanac.parallel import pipeline as own

    ranks, micro = v["ranks"], v["micro"]
    actions = own.trace(v["schedule"], ranks, micro)
    rows = [[[a.kind, a.micro_batch, a.begin, a.end] for a in actions if a.rank == rank] for rank in range(ranks)]
    return {"bubble": own.bubble(v["schedule"], ranks, micro), "formula": own.formula(v["schedule"], ranks, micro),
            "actions": rows,
            "end": max(a.end for a in actions), "kept": own.most_kept(v["schedule"], ranks, micro)}  # fmt: skip


def schedules(v):
    steps, found = v["steps"], {}
    for name, choices in (("cosine", {"floor": v["floor"]}), ("wsd", {"decay": v["decay"], "floor": 0.0})):
        made = make_method("schedule", {"name": name, "warmup": v["warmup"], **choices}).build(steps=steps)
        found[name] = np.array([made(step) for step in range(steps)])
    return found


def elo(v):
    from llmanac.metrics.elo import play

    draw = uniform(v["seed"])
    won = np.array([float(next(draw) < v["share"]) for _ in range(v["battles"])])

    def rated(results):
        return play(
            np.zeros(len(results), np.int64), np.ones(len(results), np.int64), results, 2, float(v["k"]), 400.0, 1000.0
        )[0]

    again = [rated(won[[int(next(draw) * len(won)) for _ in won]]) for _ in range(200)]
    low, high = np.percentile(again, [2.5, 97.5])
    gap = brentq(lambda points: 1 / (1 + 10 ** (-points / 400)) - v["share"], -1000, 1000)  # wins as often as it does
    return {"results": won, "path": np.array([rated(won[: n + 1]) for n in range(len(won))]), "low": low, "high": high,
            "gap": gap}  # fmt: skip


def pass_at_k(v):
    from llmanac.metrics.pass_at_k import estimates

    curve = np.array([estimates([v["n"]], [v["c"]], k)[0] for k in range(1, v["n"] + 1)])
    return {"right": curve[v["k"] - 1], "curve": curve, "biased": binom.sf(0, v["k"], v["c"] / v["n"])}


def bleu(v):
    from llmanac.metrics.bleu import bleu as own

    found = own([v["output"]], [v["reference"]], tokenizer="none", smoothing=v["smoothing"])
    peer = sacrebleu.sentence_bleu(v["output"], [v["reference"]], tokenize="none", smooth_method=v["smoothing"])
    output, reference = v["output"].split(), v["reference"].split()
    orders = []
    for n, (matches, total, p) in enumerate(zip(peer.counts, peer.totals, peer.precisions, strict=True), 1):
        theirs = {" ".join(reference[i : i + n]) for i in range(len(reference) - n + 1)}
        own = dict.fromkeys(" ".join(output[i : i + n]) for i in range(len(output) - n + 1))
        orders.append({"matches": matches, "total": total, "precision": p / 100,
                       "shared": [gram for gram in own if gram in theirs]})  # fmt: skip
    return {"bleu": found.value, "brevity": peer.bp, "orders": orders}


def minhash(v):
    from evidence._near_duplicates import exact_jaccard
    from llmanac.data.stages.minhash import Spec

    draw, marks = uniform(v["seed"]), []
    turns = [int(next(draw) * 2**32) for _ in range(v["bands"] * v["rows"])]
    for given in (v["one"], v["other"]):
        words = given.split()
        sets = {" ".join(words[i : i + v["width"]]) for i in range(max(1, len(words) - v["width"] + 1))}
        marks.append([min(mixed(fnv(s) ^ turn) for s in sets) for turn in turns])
    equal = np.array(marks[0]) == np.array(marks[1])
    j = exact_jaccard(v["one"], v["other"], Spec(width=v["width"]))
    chance = 1 - (1 - j ** v["rows"]) ** v["bands"]
    found = bool(equal.reshape(v["bands"], v["rows"]).all(1).any())
    return {"jaccard": j, "estimate": equal.mean(), "found": found, "chance": chance}


def fnv(text):
    h = 0x811C9DC5
    for byte in text.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def ngrams(v):
    lines = [line.split() for line in v["text"].split("\n") if line.split()]
    number = {w: i for i, w in enumerate(dict.fromkeys(w for line in lines for w in line))}
    smoothing = {"name": "add-k", "k": v["k"]} if v["smoothing"] == "add-k" else {"name": "kneser-ney"}
    spec = make_method("lm", {"name": "ngram", "order": v["order"], "smoothing": smoothing})
    model = spec.build(vocab_size=len(number) + 1)
    model.estimate([np.array([number[w] for w in line], np.int32) for line in lines])
    ids = [number.get(w, len(number)) for w in v["sentence"].split()]
    p = []
    for at, id in enumerate(ids):  # the first token has no context: the unigrams
        p.append(math.exp(float(log_probabilities(model, ids[:at])[id])))
    after = np.exp(log_probabilities(model, ids[len(ids) - v["order"] + 1 :]))
    words = [*number, "<unk>"]
    order = sorted(range(len(words)), key=lambda i: -round(float(after[i]), 6))[:8]
    return {"p": np.array(p), "perplexity": math.exp(-np.mean(np.log(p))), "vocabulary": len(words),
            "words": [words[i] for i in ids], "next": [[words[i], float(after[i])] for i in order]}  # fmt: skip


def log_probabilities(model, ids):
    if not ids:
        order = model.trie.distributions(np.zeros((1, model.spec.order - 1), np.int64), np.zeros(1, np.int64))
        return np.asarray(order)[0]
    return model(torch.tensor([ids]), want=OutputRequest(logits="last")).logits[0, -1].numpy()


@pytest.fixture(scope="module")
def model():
    """The pages' model in the package: its numbers, its tokenizer."""
    data = json.loads((FOLDER / "model.js").read_text("utf-8").partition("= ")[2].rstrip().rstrip(";"))
    blocks = [
        {
            "name": "pre-norm",
            "mixer": {"name": "multi-head", "heads": data["heads"]},
            "ffn": {"name": "swiglu", "width": 320},
        }
    ]
    spec = make_method(
        "lm", {"name": "transformer", "dim": 128, "layers": 4, "max_length": data["length"], "blocks": blocks}
    )
    made = spec.build(vocab_size=len(data["vocabulary"])).eval()
    weights = {}
    for name, t in data["tensors"].items():
        if "float32" in t:
            weights[name] = np.frombuffer(base64.b64decode(t["float32"]), np.float32)
        else:
            codes, scale = (
                np.frombuffer(base64.b64decode(t[k]), kind) for k, kind in (("int8", np.int8), ("scale", np.float32))
            )
            weights[name] = codes.reshape(t["shape"]) * scale[:, None]
    missing, odd = made.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    assert not odd and set(missing) <= {"lm_head.weight"}
    return made, tokenizer_of(data)


def tokenizer_of(data):
    """From the vocabulary alone, whose order is that of the merges."""
    from llmanac.tokenizers.load import from_ranks

    tokens = [bytes.fromhex(token) for token in data["vocabulary"]]
    special = {tokens[id].decode(): id for id in range(data["special"])}
    return from_ranks([None] * len(special) + tokens[len(special) :], "gpt2", special)


PAGES = [
    sampling, scaled_softmax, kv_cache, memory, rope, lora, quantize, dpo, grpo, scaling_law, pipeline, schedules, elo,
    pass_at_k, bleu, minhash, ngrams,
]  # fmt: skip
REFERENCES = {page.__name__: page for page in PAGES}


def drawn(name):
    """Settings within the bounds of a page's controls."""
    rng, found = random.Random(f"{name} 7"), []
    known = controls(name)
    while len(found) < COUNT:
        v = {}
        for c in known:
            if "options" in c:
                v[c["name"]] = rng.choice(c["options"])
            elif "text" in c:
                v[c["name"]] = text(rng, 6, 24)
            else:
                steps = round((c["high"] - c["low"]) / c["step"])
                value = c["low"] + c["step"] * rng.randint(0, steps)
                v[c["name"]] = round(value, 9) if c["step"] % 1 else int(value)
        if name == "sampling":
            v["logits"] = " ".join(f"{rng.gauss(0, 3):.3f}" for _ in range(rng.randint(2, 30)))
        if name == "grpo":
            v["rewards"] = " ".join(str(rng.choice([0, 1, 0.5, -1])) for _ in range(rng.randint(2, 16)))
        if name == "ngrams":
            v["text"], v["sentence"] = "\n".join(text(rng, 3, 9) for _ in range(6)), f"{text(rng, 3, 8)} unseen"
        if name == "bleu":
            v["output"] = text(rng, 1, 12)  # of fewer than four words too
        if name == "minhash":
            words = v["one"].split()
            v["other"] = " ".join(w if rng.random() < 0.9 else rng.choice(WORDS) for w in words)
        if name == "memory":
            v["kv"] = rng.choice([k for k in range(1, v["heads"] + 1) if v["heads"] % k == 0])
        if name == "pass_at_k" and (v["c"] > v["n"] or v["k"] > v["n"]):
            continue
        if (name == "pipeline" and v["micro"] < v["ranks"]) or (name == "schedules" and v["warmup"] + v["decay"] > 1):
            continue
        found.append(v)
    return found


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_page_has_the_packages_numbers(name, tmp_path):
    settings = drawn(name)
    ours = computed(name, settings)
    assert len({json.dumps(one) for one in ours}) > COUNT // 2, "the settings do something"
    for v, one in zip(settings, ours, strict=True):
        more = (tmp_path,) if name in ("kv_cache", "memory") else ()
        wanted = REFERENCES[name](v, *more)
        same(one, wanted, name, v)


def same(one, wanted, *where):
    if isinstance(wanted, dict):
        assert one.keys() == wanted.keys(), (where, "a number of the page is not compared")
        for key, value in wanted.items():
            same(one[key], value, *where, key)
    elif isinstance(wanted, str):
        assert one == wanted, where
    elif isinstance(wanted, list):
        for at, (own, value) in enumerate(zip(one, wanted, strict=True)):
            same(own, value, *where, at)
    else:
        assert np.allclose(np.array(one, float), np.array(wanted, float), rtol=2e-5, atol=2e-6), (where, one, wanted)


def prompts(count):
    """Pieces of the project's own pages."""
    rng, text = random.Random(3), "\n".join(path.read_text("utf-8") for path in sorted(CHAPTERS.glob("*.md")))
    return [text[at : at + rng.randint(8, 90)] for at in (rng.randrange(len(text) - 100) for _ in range(count))]


def test_ids_equal_the_tokenizers_on_10000_texts(model):
    rng = random.Random(4)
    letters = (
        "abc eEzZ01 29.,!?'\"-\n\t  \u00e9\u00df\u4e2d\u6587\u0416\u05d0\u0301\U0001f600\u00a0\u2028\u0085\u00bd's 't"
    )
    texts = prompts(7000) + ["".join(rng.choice(letters) for _ in range(rng.randint(1, 40))) for _ in range(3000)]
    ours = computed("bpe", [{"text": text} for text in texts], "(v) => guide.encode(v.text)")
    wrong = [(t, a, b) for t, a in zip(texts, ours, strict=True) if a != (b := [int(i) for i in model[1].encode(t)])]
    assert len(texts) == 10_000 and not wrong, wrong[:2]
    assert computed("bpe", [{"text": texts[0]}], "(v) => guide.decode(guide.encode(v.text))") == [texts[0]]


def after(model, ids):
    with torch.inference_mode():
        return model(Batch(ids=torch.tensor([ids])), want=OutputRequest(logits="last")).logits[0, -1].float()


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_best_next_token_is_the_packages(count, model):
    texts = prompts(count)
    work = "(v) => { const { ids, logits } = guide.prompt(v.text); "
    work += "return { ids, best: logits.indexOf(Math.max(...logits)) }; }"
    ours = computed("next_token", [{"text": text} for text in texts], work)
    assert len({one["best"] for one in ours}) > count / 20
    for one in ours:
        logits = after(model[0], one["ids"])
        assert float(logits.max() - logits[one["best"]]) < 1e-4
    settings = drawn("next_token")
    for v, one in zip(settings, computed("next_token", [{**v, "count": 3} for v in settings]), strict=True):
        logits = after(model[0], one["ids"])
        assert np.allclose(one["logits"], logits.numpy(), atol=1e-3)
        assert np.allclose(one["first"], kept(logits.numpy(), v), atol=1e-4), v
        again = after(model[0], [*one["ids"], *one["written"][:2]])
        assert kept(again.numpy(), v)[one["written"][2]] > 0


def test_attention_is_the_packages(model):
    """Recomputed from the package's own hidden states, maps and norms."""
    settings = drawn("attention")
    for v, one in zip(settings, computed("attention", settings), strict=True):
        want = OutputRequest(logits=None, layers=(v["layer"] - 1,))
        (hidden,) = model[0](Batch(ids=torch.tensor([one["ids"]])), want=want).layers
        block = model[0].model.layers[v["layer"] - 1]
        n = block.input_layernorm(hidden)
        q, k = (part(n).view(1, -1, 4, 32) for part in (block.self_attn.q_proj, block.self_attn.k_proj))
        angles = model[0].model.position.prepare(torch.arange(n.shape[1])[None], torch.float32)
        q, k = (model[0].model.position.rotate(y, angles)[0, :, v["head"] - 1] for y in (q, k))
        weights = (q @ k.T / 32**0.5).masked_fill(torch.ones(len(q), len(q)).triu(1) > 0, -math.inf).softmax(-1)
        bits = np.mean([entropy(row, base=2) for row in weights.detach().numpy()])
        assert abs(one["entropy"][v["layer"] - 1][v["head"] - 1] - bits) < 1e-3
        for row, wanted in zip(one["rows"], weights.detach().tolist(), strict=True):
            assert np.allclose(row, wanted[: len(row)], atol=1e-4)


def test_beams_are_the_packages(model):
    from llmanac.generate.engine import Engine

    engine, special = Engine(model[0]), dict.fromkeys(range(5), -100.0)
    for v, one in zip(settings := drawn("beams"), computed("beams", settings), strict=True):
        ids = [int(i) for i in model[1].encode(v["text"])]
        (found,) = engine.generate([ids], max_new_tokens=v["steps"], stop_ids=(), beams=v["beams"], logit_bias=special)
        assert list(found.ids) == one["ids"] and one["score"] >= one["greedy"] - 1e-9, v
        p = [after(model[0], ids + one["ids"][:n]).log_softmax(-1)[id] for n, id in enumerate(one["ids"])]
        assert abs(float(sum(p)) - one["score"]) < 1e-3, v


def test_the_mask_is_the_packages(model):
    from llmanac.generate.constrain import constraint_of

    parts = {"name": {"type": "string"}, "bits": {"enum": [4, 8, 16]}, "ok": {"type": "boolean"}}
    schema = {"type": "object", "required": list(parts), "additionalProperties": False, "properties": parts}
    make = constraint_of({"schema": schema}, model[1], (0,), 1024, {})
    whole = '{"name": "a \\n \\u001f", "bits": 16, "ok": false}'
    texts = [whole[:cut] for cut in range(len(whole) + 1)]
    for text, one in zip(texts, computed("json_mask", [{"text": t} for t in texts]), strict=True):
        follower = make()
        for id in model[1].encode(text):
            assert bool(follower.mask()[id])
            follower.advance(int(id))
        allowed = [int(i) for i in np.flatnonzero(follower.mask()) if i >= 5]
        assert not one["wrong"] and one["tokens"] == allowed and one["ended"] == bool(follower.accepting()), text
    (bad,) = computed("json_mask", [{"text": '{"name": "x", "bits": 17'}])
    assert bad["wrong"]


def test_every_explorable_is_compared():
    tested = {"bpe", "next_token", "attention", "beams", "json_mask"} | REFERENCES.keys()
    assert tested == explorables().keys() and len(tested) >= 15
    assert (FOLDER / "model.js").stat().st_size < 1.5e6
