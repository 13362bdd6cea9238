"""`llmanac lint`: published silent faults as small artefacts, each named by its rule; clean artefacts of many forms."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise

import pytest
import torch
from _exports import TEMPLATE, edited, folder, gguf, model, words
from safetensors.torch import load_file, save_file

from llmanac.adapters.load import save_adapter
from llmanac.cli import main
from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.models.load import load_model
from llmanac.recipes.linting import CHECKS, TABLE, lint

ASKED = [
    ("What is it?", "It is a cat."),
    ("Who sat?", "The cat."),
    ("Where?", "On the mat."),
    ("How many?", "12 of them."),
    ("Which day?", "The first."),
    ("Did it?", "It did, at 345."),
]
EOS, BOS = 2, 1


def chat(question, answer, system=None):
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def written(place, rows):
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def named(place, **choices):
    return [one.name for one in lint(str(place), **choices)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model's folder, and an adapter of it."""
    root = tmp_path_factory.mktemp("lint")
    tokenizer = words()
    base = folder(root / "base", model(tokenizer), tokenizer)
    return base, adapter_of(base, root / "adapter", tokenizer)


def adapter_of(base, place, tokenizer, **choices):
    whole = load_model(base, device="cpu")
    change = make_method("adapter", {"name": "lora", "rank": 4, **choices}).build(seed=1).apply(whole)
    for name, parameter in whole.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    save_adapter(change, place, base=str(base))
    tokenizer.save(place)
    return place


# ------------------------------------------------------------------------------------------------------------ rows
def ids_of(text):
    return [BOS, *(10 + ord(letter) % 80 for letter in text), EOS]


def tokenized(question, answer, **changes):
    ids = ids_of(question + answer)
    cut = 1 + len(question)
    return {"input_ids": ids, "labels": [-100] * cut + ids[cut:], "attention_mask": [1] * len(ids), **changes}


TOKENS = [tokenized(*pair) for pair in ASKED]


def padded(row, masked, mask=True):
    extra = 40 - len(row["input_ids"])
    out = {
        "input_ids": row["input_ids"] + [EOS] * extra,
        "labels": [-100 if masked and label == EOS else label for label in row["labels"]] + [-100] * extra,
    }
    return {**out, **({"attention_mask": row["attention_mask"] + [0] * extra} if mask else {})}


ROWS = {
    "no-loss": [{**row, "labels": [-100] * len(row["labels"])} for row in TOKENS],
    "end-untrained": [padded(row, masked=True) for row in TOKENS],
    "bos-twice": [
        {
            **row,
            "input_ids": [BOS, *row["input_ids"]],
            "labels": [-100, *row["labels"]],
            "attention_mask": [1, *row["attention_mask"]],
        }
        for row in TOKENS
    ],
    "answers-cut": [
        *TOKENS[:4],
        *({key: value[:40] for key, value in tokenized(q, a * 9).items()} for q, a in ASKED[:2]),
    ],
    "labels-shifted": [{**row, "labels": [*row["labels"][1:], -100]} for row in TOKENS],
    "padding-trained": [
        {**padded(row, masked=False), "labels": padded(row, masked=False)["input_ids"]} for row in TOKENS
    ],
    "no-answer": [*(chat(*pair) for pair in ASKED), {"messages": [{"role": "user", "content": "Alone"}]}],
    "unknown-role": [{"messages": [{"role": "human", "content": q}, {"role": "gpt", "content": a}]} for q, a in ASKED],
    "boundary": [{"prompt": f"{q} ", "completion": a} for q, a in ASKED],
    "equal-answers": [{"prompt": q, "chosen": a, "rejected": a} for q, a in ASKED],
    "mixed-forms": [*(chat(*pair) for pair in ASKED), {"text": "The cat."}],
    "template-twice": [chat(f"<|im_start|>user\n{q}<|im_end|>", a) for q, a in ASKED],
    "bos-in-text": [{"text": f"<s>{q} {a}</s>"} for q, a in ASKED],
    "unreadable-row": [{"foo": q, "bar": a} for q, a in ASKED],
}
NEIGHBOURS = {  # the same fault in another form
    "unreadable-row": [
        [{"messages": []}],
        [{"messages": "hello"}],
        [{"messages": [5]}],
        [{"conversations": 5}],
        [{"text": 5}],
        [{}],
        [{"prompt": 1, "completion": 2}],
        [{"foo": "a"}, {"text": "a"}],
    ],
    "no-answer": [
        [{"prompt": "Q", "completion": None}],
        [{"prompt": "Q", "completion": "A"}, {"prompt": "Q"}],
        [{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": " "}]}],
        [{"prompt": "Q", "completion": ""}],
        [{"conversations": [{"from": "human", "value": "Q"}]}],
    ],
    "unknown-role": [
        [{"conversations": [{"from": "hummany", "value": "Q"}, {"from": "gpt", "value": "A"}]}],
        [{"messages": [{"role": "user", "content": "Q"}, {"role": "bot", "content": "A"}]}],
        [{"messages": [{"role": ["user"], "content": "Q"}]}],
    ],
    "no-loss": [[TOKENS[0], {**TOKENS[1], "labels": [-100] * len(TOKENS[1]["labels"])}]],
    "end-untrained": [
        [padded(row, masked=True, mask=False) for row in TOKENS],
        [{**row, "labels": [*row["labels"][:-1], -100]} for row in TOKENS],
    ],
    "padding-trained": [
        [{key: value for key, value in row.items() if key != "attention_mask"} for row in ROWS["padding-trained"]]
    ],
    "bos-in-text": [[{"text": "<bos>Hi"}], [{"prompt": "<|begin_of_text|>Hi", "completion": "Yes"}]],
    "template-twice": [[chat("[INST] Hi [/INST]", "Yes")], [chat("Hi", "Yes<|eot_id|>")]],
    "mixed-forms": [
        [{"prompt": "Q", "completion": "A"}, {"text": "T"}],
        [chat("Q", "A"), {"prompt": "Q", "completion": "A"}],
    ],
}


@pytest.mark.parametrize("fault", ROWS)
def test_faults_of_rows(fault, tmp_path):
    assert named(written(tmp_path / "rows.jsonl", ROWS[fault])) == [fault]
    for rows in NEIGHBOURS.get(fault, ()):
        assert fault in named(written(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        *(({"input_ids": ids}, "input_ids: a list of integers") for ids in (None, 5, [], [[1], [3]], [1, "a"], "abc")),
        ({"input_ids": [1, 2], "labels": [[1], 2]}, "labels: a list of integers"),
        ({"input_ids": [1, 2], "labels": [1]}, "2 input_ids and 1 labels"),
        ({"input_ids": [1, 2], "attention_mask": "x"}, "attention_mask: a list of integers"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "2 input_ids and 1 attention_mask"),
        ({"input_ids": [1, 2], "attention_mask": [5, 9]}, "attention_mask: 1 "),
        ({"input_ids": [1, 2], "attention_mask": [0, 0]}, "attention_mask: 1 "),
    ],
)  # fmt: skip
def test_tokenized_rows_that_do_not_fit_are_refused_by_line(row, said, made, tmp_path):
    rows = written(tmp_path / "rows.jsonl", [TOKENS[0], row])
    for reader in (None, str(made[0])):
        with pytest.raises(DataError, match=rf"rows.jsonl:2: .*{said}"):
            lint(str(rows), model=reader)


def test_places_that_hold_nothing_to_read(made, tmp_path):
    base, adapter = made
    with pytest.raises(DataError, match=r"--model: /nonexistent: no such"):
        lint(str(adapter), model="/nonexistent")
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"no weights in \.safetensors"):
        lint(str(pickled))
    state = tmp_path / "state"
    state.mkdir()
    (state / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 0.0}] * 3}))
    assert named(state) == ["loss-zero"]
    unknown = written(tmp_path / "unknown.jsonl", [{"foo": 1}])
    assert named(unknown, held_out=str(unknown)) == ["unreadable-row"]


def test_a_row_is_as_long_as_the_template_makes_it(made, tmp_path):
    tokenizer, row = words(), chat("What Is It?", "It Is A Cat.")
    size = len(tokenizer.chat_ids(row["messages"]))
    rows = written(tmp_path / "rows.jsonl", [row])
    assert named(rows, model=str(made[0]), length=size) == []
    assert named(rows, model=str(made[0]), length=size - 1) == ["rows-too-long"]


def test_faults_of_rows_that_need_a_model_or_other_rows(made, tmp_path):
    base, _ = made
    rows = written(tmp_path / "rows.jsonl", [chat(*pair, system="Be brief and kind.") for pair in ASKED])
    assert named(rows, model=str(base)) == []
    assert named(
        rows, held_out=str(written(tmp_path / "held.jsonl", [chat("who  SAT?", "The cat.", "Be brief and kind.")]))
    ) == ["held-out-in-training"]
    assert named(rows, model=str(base), length=5) == ["rows-too-long"]
    for name, template, fault in (
        ("dropped", TEMPLATE.replace("{% else %}", "{% elif message['role'] != 'system' %}"), "template-drops-turn"),
        ("refused", "{{ raise_exception('no system') }}", "template-drops-turn"),
        ("none", None, "no-template"),
    ):
        other = shutil.copytree(base, tmp_path / name)
        words(template=template).save(other)
        if template is None:
            for path in other.glob("chat_template*"):
                path.unlink()
        assert named(rows, model=str(other)) == [fault]
    beyond = written(
        tmp_path / "tokens.jsonl", [{**row, "input_ids": [*row["input_ids"][:-1], 100_000]} for row in TOKENS]
    )
    assert "ids-out-of-vocabulary" in named(beyond, model=str(base))


# ---------------------------------------------------------------------------------------------------------- models
def weights(place, change):
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, place / "model.safetensors", {"format": "pt"})


def nan(tensors):
    tensors["model.norm.weight"][3] = math.nan


def renamed(tensors):
    for name in list(tensors):
        tensors[f"_orig_mod.{name}"] = tensors.pop(name)


def wrapped(tensors):
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.base_layer.weight"] = tensors.pop(f"{name}.weight")


def new_token(tensors):
    tensors["model.embed_tokens.weight"][words().special_tokens["<|assistant|>"]] = 0.0


def mean_token(tensors):
    table = tensors["model.embed_tokens.weight"]
    id = words().special_tokens["<|user|>"]
    others = torch.arange(len(table)) != id
    table[id] = table[others].mean(0)


def fewer(tensors):
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:-2].clone()


MODELS = {
    "end-token-differs": [lambda place: edited(place / "generation_config.json", eos_token_id=7)],
    "no-end-mark": [
        lambda place: words(
            template=TEMPLATE.replace("{{ message['content'] }}</s>{% endgen", "{{ message['content'] }}{% endgen")
        ).save(place)
    ],
    "tied-head-apart": [
        lambda place: edited(place / "config.json", tie_word_embeddings=True),
    ],
    "more-tokens-than-rows": [lambda place: weights(place, fewer)],
    "untrained-token": [lambda place: weights(place, new_token), lambda place: weights(place, mean_token)],
    "not-finite": [lambda place: weights(place, nan)],
    "leftover-names": [lambda place: weights(place, renamed), lambda place: weights(place, wrapped)],
}


@pytest.mark.parametrize("fault", MODELS)
def test_faults_of_models(fault, made, tmp_path):
    for number, spoil in enumerate(MODELS[fault]):
        place = shutil.copytree(made[0], tmp_path / str(number))
        spoil(place)
        assert fault in named(place), number


# -------------------------------------------------------------------------------------------------------- adapters
def tensors_of(place, change):
    file = place / "adapter_model.safetensors"
    tensors = load_file(file)
    made = {name: change(name, tensor) for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in made.items() if tensor is not None}, file, {"format": "pt"})
    (place / "llmanac.json").unlink(missing_ok=True)


ADAPTERS = {
    "adapter-empty": [
        lambda place: tensors_of(place, lambda name, x: x[:0]),
        lambda place: tensors_of(place, lambda name, x: None),
    ],
    "adapter-untrained": [lambda place: tensors_of(place, lambda name, x: x * 0 if "lora_B" in name else x)],
    "adapter-does-not-fit": [  # wider, of another rank, without a half
        lambda place: tensors_of(place, lambda name, x: torch.cat([x, x], 1) if "lora_A" in name else x),
        lambda place: edited(place / "adapter_config.json", r=8),
        lambda place: tensors_of(place, lambda name, x: None if "layers.1" in name and "lora_B" in name else x),
    ],
    "adapter-not-finite": [
        lambda place: tensors_of(place, lambda name, x: x * math.inf if "q_proj.lora_A" in name else x)
    ],
    "added-tokens-untrained": [lambda place: added(place)],
    "base-in-4-bits": [
        lambda place: edited(place / "adapter_config.json", base_model_name_or_path="unsloth/some-bnb-4bit")
    ],
}


def added(place):
    table = json.loads((place / "tokenizer.json").read_text())
    size = words().vocab_size
    new = {**table["added_tokens"][0], "id": size, "content": "<|new|>"}
    table["added_tokens"].append(new)
    (place / "tokenizer.json").write_text(json.dumps(table))


@pytest.mark.parametrize("fault", ADAPTERS)
def test_faults_of_adapters(fault, made, tmp_path):
    for number, spoil in enumerate(ADAPTERS[fault]):
        place = shutil.copytree(made[1], tmp_path / str(number))
        spoil(place)
        assert fault in named(place), number


def test_a_tied_head_that_is_trained_alone(tmp_path):
    tokenizer = words()
    base = folder(tmp_path / "base", model(tokenizer, tied=True), tokenizer)
    place = adapter_of(base, tmp_path / "adapter", tokenizer)
    assert named(place) == []
    edited(place / "adapter_config.json", modules_to_save=["lm_head"])
    assert "tied-head-trained" in named(place)


def test_faults_of_checkpoints(made, tmp_path):
    def state(*losses, norm=0.5):
        place = tmp_path / "checkpoint"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made[0], place)
        log = [{"loss": loss, "grad_norm": norm, "learning_rate": 1e-4, "step": i} for i, loss in enumerate(losses)]
        (place / "trainer_state.json").write_text(json.dumps({"log_history": log, "global_step": len(log)}))
        return place

    assert named(state(2.0, 1.5, 1.0)) == []
    assert named(state(2.0, 0.0, 0.0, 0.0)) == ["loss-zero"]
    assert named(state(2.0, math.nan)) == ["loss-zero"]
    assert named(state(2.0, 1.0, norm=math.nan)) == ["loss-zero"]
    place = state(2.0, 1.0)
    words(template=None).save(place)
    for path in place.glob("chat_template*"):
        path.unlink()
    assert named(place) == ["checkpoint-without-template"]


# ----------------------------------------------------------------------------------------------------------- clean
CLEAN = {
    "chats": [chat(*pair) for pair in ASKED],
    "chats with a system turn": [chat(*pair, system="Be kind.") for pair in ASKED],
    "longer chats": [{"messages": chat(*a)["messages"] + chat(*b)["messages"]} for a, b in pairwise(ASKED)],
    "sharegpt": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in ASKED],
    "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in ASKED],
    "questions": [{"question": q, "answer": a} for q, a in ASKED],
    "prompts": [{"prompt": q, "completion": f" {a}"} for q, a in ASKED],
    "prompts that end a line": [{"prompt": f"{q}\n", "completion": a} for q, a in ASKED],
    "prompts of messages": [
        {"prompt": chat(q, a)["messages"][:1], "completion": chat(q, a)["messages"][1:]} for q, a in ASKED
    ],
    "texts": [{"text": f"{q} {a}"} for q, a in ASKED],
    "preferences": [{"prompt": q, "chosen": a, "rejected": "No."} for q, a in ASKED],
    "preferences of messages": [
        {"chosen": chat(q, a)["messages"], "rejected": chat(q, "No.")["messages"]} for q, a in ASKED
    ],
    "prompts alone": [{"prompt": q} for q, _ in ASKED],
    "prompts of messages alone": [{"prompt": chat(q, a)["messages"][:1]} for q, a in ASKED],
    "preferences after messages": [
        {
            "prompt": chat(q, a)["messages"][:1],
            "chosen": chat(q, a)["messages"][1:],
            "rejected": chat(q, "No.")["messages"][1:],
        }
        for q, a in ASKED
    ],
    "tokenized, packed with a mask that counts": [
        {
            "input_ids": a["input_ids"] + b["input_ids"],
            "labels": a["labels"] + b["labels"],
            "attention_mask": [1] * len(a["input_ids"]) + [2] * len(b["input_ids"]),
        }
        for a, b in pairwise(TOKENS)
    ],
    "tokenized and padded on the left": [
        {
            "input_ids": [EOS] * (40 - len(row["input_ids"])) + row["input_ids"],
            "labels": [-100] * (40 - len(row["input_ids"])) + row["labels"],
            "attention_mask": [0] * (40 - len(row["input_ids"])) + row["attention_mask"],
        }
        for row in TOKENS
    ],
    "calls of tools": [
        {
            "messages": [
                {"role": "user", "content": q},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}],
                },
                {"role": "tool", "content": a},
                {"role": "assistant", "content": a},
            ]
        }
        for q, a in ASKED
    ],
    "parts": [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": q}]}, {"role": "assistant", "content": a}]}
        for q, a in ASKED
    ],
    "tokenized": TOKENS,
    "tokenized and padded": [padded(row, masked=False) for row in TOKENS],
    "tokenized and padded, no mask": [padded(row, masked=False, mask=False) for row in TOKENS],
    "tokenized, all with loss": [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in TOKENS],
    "packed": [{"input_ids": ids_of("a cat, " * 20)[:64], "labels": ids_of("a cat, " * 20)[:64]} for _ in range(4)],
}


@pytest.mark.parametrize("form", CLEAN)
def test_clean_rows(form, made, tmp_path):
    rows = written(tmp_path / "rows.jsonl", CLEAN[form])
    assert lint(str(rows)) == []
    if form not in ("parts", "calls of tools"):
        assert [one for one in lint(str(rows), model=str(made[0])) if one.name != "ids-out-of-vocabulary"] == []


CHOICES = {
    "untied": {},
    "tied": {"tied": True},
    "base of rotation": {"position": {"name": "rope", "theta": 5e5}},
    "wider": {"dim": 128},
    "one layer": {"layers": 1},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_clean_models_and_adapters(choice, tmp_path):
    """Ten: a folder and an adapter of each; and a file of the first."""
    tokenizer = words()
    whole = model(tokenizer, **CHOICES[choice])
    base = folder(tmp_path / "base", whole, tokenizer)
    assert lint(str(base)) == []
    assert lint(str(adapter_of(base, tmp_path / "adapter", tokenizer, rank=2))) == []
    if choice == "untied":
        assert lint(str(gguf(tmp_path / "m.gguf", whole, tokenizer, "q8_0"))) == []


def test_clean_files_of_transformers_and_peft(made, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM

    base, _ = made
    theirs = AutoModelForCausalLM.from_pretrained(base)
    theirs.save_pretrained(tmp_path / "theirs")
    words().save(tmp_path / "theirs")
    assert lint(str(tmp_path / "theirs")) == []
    for number, targets in enumerate(
        (["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"])
    ):
        made_of = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=4, target_modules=targets)
        )
        for name, parameter in made_of.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
        made_of.save_pretrained(tmp_path / f"peft{number}")
        assert lint(str(tmp_path / f"peft{number}")) == []
    fresh = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=4, target_modules=["q_proj"])
    )
    fresh.save_pretrained(tmp_path / "fresh")
    assert named(tmp_path / "fresh") == ["adapter-untrained"]


def test_every_published_fault_of_the_page_is_a_rule(root):
    text = (root / "docs" / "specialize.md").read_text("utf-8")
    table = text.partition("### Twenty-five silent faults")[2].partition("Also named")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert len(listed) == 25 and set(listed) <= set(CHECKS)
    also = text.partition("Also named: ")[2].partition(".\n")[0]
    assert set(CHECKS) == {*listed, *also.replace("\n", " ").replace("`", "").split(", ")}
    assert set(CHECKS) == set(TABLE) and all("#" in one["thread"] for one in TABLE.values())


def test_the_command(made, tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["lint", *map(str, arguments)])
        return ended.value.code, capsys.readouterr().out

    status, said = run(written(tmp_path / "good.jsonl", CLEAN["chats"]))
    assert status == 0 and "nothing found" in said
    status, said = run(written(tmp_path / "bad.jsonl", ROWS["no-loss"]), "--json")
    assert status == 1 and json.loads(said)["found"][0]["name"] == "no-loss"
    assert run(tmp_path / "none")[0] == run(tmp_path)[0] == 2
