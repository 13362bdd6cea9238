"""Which tokens of an instruction or a chat carry loss, beside the labels of TRL's SFTTrainer for the same rows."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError, TokenizerError
from llmanac.core.types import IGNORE
from llmanac.data.pack import PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.tokenizers.chat import process as _sandbox
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXT = (
    "Write an answer. What is the capital of France? The capital of France is Paris, and it lies on the Seine"
    ". Explain why the sky is blue: sunlight is scattered by the air, blue light most of all. 4\n\n### Response:\n"
) * 20
WORDS = ["sky", "blue", "Paris", "\n", " ", "the", "?", "Answer", "42", "é", "###", ":", "  ", "capital", "s", "-"]
CHATS = {
    "chatml": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "roles": ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>"],
}


@pytest.fixture(scope="module", params=list(CHATS))
def pair(request, tmp_path_factory):
    """Our tokenizer, and what transformers reads from the folder that it saves."""
    import transformers

    folder = tmp_path_factory.mktemp(request.param)
    special = CHATS[request.param]
    ours = train_tokenizer("bpe", [TEXT], vocab_size=400, special_tokens=special)
    ours.save(folder)
    return load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


def labels_of_trl(rows, tokenizer, *, assistant):
    """`(input ids, labels)` of each row as SFTTrainer prepares them; nothing of the trainer but this method is used."""
    datasets = pytest.importorskip("datasets")
    from trl.trainer.sft_trainer import SFTTrainer

    completion = "completion" in rows[0]
    stand_in = SimpleNamespace(
        _tokenizer=tokenizer, chat_template=tokenizer.chat_template, completion_only_loss=completion
    )
    settings = SimpleNamespace(
        dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=assistant, max_length=None,
        shuffle_dataset=False,
    )  # fmt: skip
    given = datasets.Dataset.from_list(rows)
    made = SFTTrainer._prepare_dataset(stand_in, given, tokenizer, settings, False, None, "train")
    return [(row["input_ids"], row["labels"]) for row in made]


def labels_of_ours(objective, rows):
    out = []
    for row in rows:
        ids, mask = objective.encode(row)
        out.append((ids.tolist(), np.where(mask, ids, IGNORE).tolist()))
    return out


def phrases(generator, least=1):
    return "".join(generator.choice(WORDS) + generator.choice(["", " "]) for _ in range(generator.randint(least, 9)))


def test_completions_as_text_equal_trl(pair):
    """Random pairs, where tokens often merge across the boundary, and real prompt forms."""
    ours, theirs = pair
    generator = random.Random(0)
    rows = [{"prompt": phrases(generator), "completion": phrases(generator)} for _ in range(150)]
    rows += [{"prompt": f"### Instruction:\n{phrases(generator)}\n\n### Response:\n", "completion": "Paris."}] * 3
    objective = registry.build("objective", "instruction", tokenizer=ours)
    found, wanted = labels_of_ours(objective, rows), labels_of_trl(rows, theirs, assistant=False)
    assert found == wanted
    assert all(ids[-1] == labels[-1] == ours.eos_id for ids, labels in found)  # it learns to stop
    alone = [ours.encode(row["prompt"]) for row in rows]
    merged = sum(a != ids[: len(a)] for a, (ids, _) in zip(alone, found, strict=True))
    assert merged >= 5  # the rows do have merges across the boundary


def conversations(count, roles=("user", "assistant")):
    generator = random.Random(1)
    out = []
    for i in range(count):
        turns = [{"role": "system", "content": phrases(generator)}] if i % 3 == 0 else []
        for _ in range(generator.randint(1, 4)):
            turns += [{"role": role, "content": phrases(generator)} for role in roles]
        out.append(turns)
    return out


def test_completions_as_messages_equal_trl(pair):
    ours, theirs = pair
    rows = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in conversations(60)]
    objective = registry.build("objective", "instruction", tokenizer=ours)
    wanted = labels_of_trl(rows, theirs, assistant=False)
    assert labels_of_ours(objective, rows) == wanted
    # `messages` with on = "completion" is the same with the last message as the completion
    assert labels_of_ours(objective, [{"messages": r["prompt"] + r["completion"]} for r in rows]) == wanted
    # what follows the last answer is never learnt
    more = [{"role": "user", "content": "the sky?"}, {"role": "user", "content": "Paris?"}]
    assert labels_of_ours(objective, [{"messages": r["prompt"] + r["completion"] + more} for r in rows]) == wanted
    with pytest.raises(DataError, match="has no assistant message to learn from"):
        objective.encode({"messages": more})


def test_chat_equals_trl_assistant_only_loss(pair):
    """Every assistant turn with its end mark, no other token."""
    ours, theirs = pair
    rows = [{"messages": chat} for chat in conversations(60)]
    objective = registry.build("objective", "chat", tokenizer=ours)
    found = labels_of_ours(objective, rows)
    assert found == labels_of_trl(rows, theirs, assistant=True)
    end = ours.encode_chat([{"role": "assistant", "content": "x"}])
    end_id = [i for i, own in zip(*end, strict=True) if own][-1]
    for row, (ids, labels) in zip(rows, found, strict=True):
        turns = sum(message["role"] == "assistant" for message in row["messages"])
        assert labels.count(end_id) == turns  # the turn's end is in the loss, once a turn
        assert ours.bos_id in (None, ours.eos_id) or (ids.count(ours.bos_id) == 1 and ids[0] == ours.bos_id)
        spoken = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        kept = [i for i in labels if i not in (IGNORE, end_id)]
        # a line break of the template may share a token with the first one of the answer
        assert ours.decode(kept).replace("\n", "") == "".join(spoken).replace("\n", "")


def test_real_instructions_equal_trl(pair, shared_data):
    ours, theirs = pair
    rows = []
    with open(shared_data / "instruct" / "dolly_hhrlhf_train_small.jsonl", encoding="utf-8") as handle:
        for line in list(handle)[:60]:
            record = json.loads(line)
            rows.append({"prompt": record["prompt"], "completion": record["response"]})
    objective = registry.build("objective", "instruction", tokenizer=ours)
    assert labels_of_ours(objective, rows) == labels_of_trl(rows, theirs, assistant=False)


def small_model(vocab_size):
    model = registry.build("lm", "transformer", dim=32, layers=1, max_length=512, vocab_size=vocab_size).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.2 + (p.ndim == 1))
    return model


def test_the_prompt_carries_no_loss_and_the_answer_all(pair, tmp_path):
    """Loss by hand over the answer's tokens; packed rows lose the same; without the mask the loss is another."""
    ours, _ = pair
    objective = registry.build("objective", "chat", tokenizer=ours)
    rows = [{"messages": chat} for chat in conversations(12)]
    model = small_model(ours.vocab_size)
    batch = objective.collate(rows)
    loss, units, _ = objective.loss(model, batch)
    by_hand, count = 0.0, 0
    for row in rows:
        ids, mask = objective.encode(row)
        logits = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
        for t in np.flatnonzero(mask):
            by_hand, count = by_hand - logits[t - 1, ids[t]], count + 1
    assert units == count
    torch.testing.assert_close(loss, by_hand)
    every = registry.build("objective", "instruction", tokenizer=ours, on="all")
    assert abs(float(every.loss(model, every.collate(rows))[0] - loss)) > 1.0
    examples = list(objective.reader.examples(rows, length=256))
    dataset = TokenDataset.write_examples(tmp_path / "d", examples, vocab_size=ours.vocab_size)
    assert dataset.has_loss_mask
    stream = PackedStream(dataset, length=256, packing="whole")
    packed = objective.collate(stream.take(stream.plan(0)))
    assert len(packed.ids) < len(rows)
    torch.testing.assert_close(objective.loss(model, packed)[0], loss)
    assert packed.units == units


@pytest.mark.parametrize("on", ["completion", "assistant", "all"])
def test_many_rows_are_rendered_together_and_encoded_as_alone(pair, on, monkeypatch):
    ours, _ = pair
    objective = registry.build("objective", "instruction", tokenizer=ours, on=on)
    chats = conversations(100)
    rows = [
        row
        for chat in chats
        for row in (
            {"messages": chat},
            {"prompt": "x", "completion": "y"},
            {"prompt": chat[:-1], "completion": chat[-1:]},
        )
    ]
    alone = [objective.encode(row) for row in rows]
    requests = []
    ask = _sandbox.HELPER.ask
    monkeypatch.setattr(_sandbox.HELPER, "ask", lambda data, times: (requests.append(1), ask(data, times))[1])
    together = list(objective.reader.examples(rows, length=9999))
    assert len(together) == len(alone) and len(requests) < 20
    for (ids, mask), (same_ids, same_mask) in zip(together, alone, strict=True):
        assert ids.tolist() == same_ids.tolist() and mask.tolist() == same_mask.tolist()
    for bad, error in (({"no": 1}, DataError), ({"messages": [{"content": "x"}]}, (DataError, TokenizerError))):
        found = objective.reader.examples([*rows[:9], bad, *rows], length=9999)
        assert [next(found)[0].tolist() for _ in range(9)] == [ids.tolist() for ids, _ in alone[:9]]
        with pytest.raises(error):
            next(found)


def test_a_text_data_set_has_marks_and_no_forged_ones(pair, tmp_path):
    ours, _ = pair
    texts = ["What is <|endoftext|> and <|eos|>?", "", "the sky is blue"]
    dataset = TokenDataset.write(tmp_path / "d", texts, ours)
    begin = [] if ours.bos_id is None else [ours.bos_id]
    assert [d.tolist() for d in dataset] == [[*begin, *ours.encode(t), ours.eos_id] for t in texts if t]
    assert dataset.manifest["empty"] == 1 and dataset.manifest["tokenizer"] == ours.fingerprint()
    assert dataset.manifest["bytes"] == sum(len(t.encode()) for t in texts)
    assert ours.decode(dataset[0][len(begin) : -1]) == texts[0]


def test_rows_that_cannot_be_used_say_why(pair):
    ours, _ = pair
    objective = registry.build("objective", "instruction", tokenizer=ours)
    for row, message in (
        ({"text": 123}, "text: a text was expected, not int"),
        ({"prompt": "x"}, r"columns \['prompt'\]: expected `messages`, `prompt` and `completion`, or `text`"),
        ({"messages": []}, "messages: a list of messages was expected"),
        ({"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "both must be text, or both lists"),
    ):
        with pytest.raises(DataError, match=message):
            objective.encode(row)
    chat = registry.build("objective", "chat", tokenizer=ours)
    with pytest.raises(DataError, match="nothing in this row carries loss"):
        chat.encode({"messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(SpecError, match="instruction needs a tokenizer"):
        registry.build("objective", "instruction")
