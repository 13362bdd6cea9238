"""Models of images in the engine: the texts of `describe` and of transformers, whatever runs in the same batch."""

from __future__ import annotations

import pytest
import torch
from _pictures import TEXT, VISION, theirs
from _seeing_models import ASK, picture, seeing

from llmanac.core.errors import CheckpointError, RequestError, SpecError
from llmanac.generate.engine import Engine
from llmanac.generate.images import Seeing, describe, load_seeing, sees

MOST = 6


def asking(text=ASK):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module", params=["vlm", "flamingo"])
def model(request, tmp_path_factory):
    return seeing(tmp_path_factory.mktemp("words"), request.param)


def test_the_engine_writes_what_describe_writes(model):
    """Rows with different images and questions run together, forked samples too; the texts depend on the image."""
    engine = Engine(model, model.tokenizer, rows=5)
    asked = [(n, text) for n in range(3) for text in ("", ASK)]
    requests, expected = [], []
    for number, text in asked:
        ids, images = model.chat(asking(text), [picture(number)])
        requests.append(engine.request(ids, images=images, max_new_tokens=MOST, n=2, stop_ids=[]))
        token = model.tokenizer
        first = [] if model.image_id is None else [model.image_id]
        plain = [*first, token.bos_id, *token.encode(text)]
        pixels = model.preprocess([picture(number)]).double()
        expected += 2 * describe(model.model, pixels, plain, end=set(), most=MOST)
    made = [completion.ids for completion in engine.run(requests)]
    assert made == expected
    assert len({tuple(ids) for ids in made}) > 3


def test_a_prompt_in_pieces_and_put_back_gives_the_same(model, monkeypatch):
    """An image in two calls of the model, and rows that were put back and read again."""
    ids, images = model.chat(asking(), [picture(1)])
    other, more = model.chat(asking(""), [picture(2)])
    plain = [model.tokenizer.bos_id, 7, 8]

    def run(**choices):
        engine = Engine(model, model.tokenizer, rows=3, **choices)
        given = [(ids, images), (other, more), (plain, None)]
        made = [engine.request(i, images=s, max_new_tokens=MOST, stop_ids=[]) for i, s in given]
        return [completion.ids for completion in engine.run(made)]

    expected = run()
    assert len(set(map(tuple, expected))) == 3
    assert run(max_num_batched_tokens=len(ids) + 9) == expected
    monkeypatch.setattr("llmanac.generate.schedule.READ_TOKENS", 3)
    assert run() == expected


def test_no_row_reads_the_image_of_another_from_the_prefix_cache(model):
    """The ids of two prompts are equal, and what is kept of one must not be the other's."""
    engine = Engine(model, model.tokenizer, rows=2, prefix_cache_bytes=1 << 24)
    texts = []
    for number in (0, 1, 0, 1):
        ids, images = model.chat(asking(), [picture(number)])
        ids = ids * 1 if images.places is None else ids
        texts.append(engine.generate([ids], images=images, max_new_tokens=MOST, stop_ids=[])[0].ids)
    assert texts[0] == texts[2] != texts[1] == texts[3]


def test_the_image_token_is_never_written(model):
    if model.image_id is None:
        pytest.skip("has none")
    ids, images = model.chat(asking(), [picture(0)])
    made = Engine(model, model.tokenizer).generate([ids], images=images, max_new_tokens=8, temperature=30.0, n=60,
                                                   seed=1, stop_ids=[])  # fmt: skip
    assert model.image_id not in {i for completion in made for i in completion.ids}


@pytest.mark.parametrize(
    ("messages", "count", "said"),
    [
        (asking(), 0, "image"),
        (asking(), 2, "2 images"),
        ([{"role": "user", "content": "hi"}], 0, "one image and one question"),
        ([*asking(), {"role": "assistant", "content": "red"}, *asking()], 1, "one message"),
        (asking("what is a zebra"), 1, "does not know"),
        (asking(" ".join([ASK] * 40)), 1, "do not fit"),
    ],
)
def test_what_a_trained_run_cannot_read_is_refused(model, messages, count, said):
    if said == "image" and model.image_id is None:
        said = "one image"
    with pytest.raises(RequestError, match=said):
        ids, images = model.chat(messages, [picture(n) for n in range(count)])
        Engine(model, model.tokenizer).request(ids, images=images)


def test_models_that_cannot_be_served(tmp_path):
    with pytest.raises(SpecError, match="prefix"):
        seeing(tmp_path, mask="prefix")
    with pytest.raises(RequestError, match="text alone"):
        from _engine_models import ByteTokenizer, HistoryModel

        Engine(HistoryModel(), ByteTokenizer()).request("a", images=object())


TEMPLATE = (
    "{% for m in messages %}{{ m.role + ':' }}{% if m.content is string %}{{ m.content }}{% else %}{% for p in "
    "m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A folder as llava-hf's: a tiny checkpoint of transformers, a tokenizer with a template, a processor."""
    from llmanac.core.spec import make_method
    from llmanac.data.pictures.preprocess import Preprocess

    place = tmp_path_factory.mktemp("llava")
    tokenizer = make_method("tokenizer", {
        "name": "bpe", "vocab_size": 300, "special_tokens": ["<eos>", "<image>"], "eos": "<eos>",
    }).train(["user: what is this; a: it is a cat"])  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    image = tokenizer.special_tokens["<image>"]
    model = theirs("LlavaForConditionalGeneration", "LlavaConfig", vision_config={
        **VISION, "model_type": "clip_vision_model"}, text_config={
        **TEXT, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 200, "model_type": "llama",
        "num_key_value_heads": 2}, image_token_index=image)  # fmt: skip
    model.save_pretrained(place)
    tokenizer.save(place)
    Preprocess(size=24).save(place)
    return place, model, tokenizer, image


def test_a_loaded_llava_converses_as_in_transformers(llava):
    place, model, tokenizer, image = llava
    assert sees(place) and not sees(place / "nothing")
    loaded = load_seeing(place, device="cpu")
    ours = Seeing(loaded.model.double(), loaded.tokenizer, loaded.preprocess, template=True)
    images = [picture(1), picture(2)]
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "image"}]},
    ]
    ids, seen = ours.chat(messages, images)
    assert ids.count(image) == 2 * 9 and tokenizer.decode(ids).startswith("user:<image>")
    mine = Engine(ours, ours.tokenizer).generate([ids], images=seen, max_new_tokens=MOST, stop_ids=[])[0].ids
    never = torch.tensor([ids])
    pixels = ours.preprocess(images).double()
    found = model.generate(input_ids=never, attention_mask=torch.ones_like(never), pixel_values=pixels,
                           do_sample=False, max_new_tokens=MOST, min_new_tokens=MOST,
                           suppress_tokens=[image])[0, len(ids):].tolist()  # fmt: skip
    assert mine == found
    text = [{"role": "user", "content": "what is this"}]
    assert ours.chat(text, []) == (ours.tokenizer.chat_ids(text, add_generation_prompt=True), None)
    assert image not in ours.chat([{"role": "user", "content": "<image> what"}], [])[0]  # what a user writes is text
    loaded.tokenizer.chat_template = "{{ messages[0].content[0].text }}"
    with pytest.raises(RequestError, match="0 image tokens for 1 images"):
        ours.chat(messages[2:], images[:1])


def test_a_family_without_a_template_is_refused(llava, tmp_path):
    import shutil

    shutil.copytree(llava[0], tmp_path / "m")
    for path in (tmp_path / "m").glob("chat_template*"):
        path.unlink()
    from llmanac.core import files

    config = tmp_path / "m" / "tokenizer_config.json"
    files.write_json(config, {k: v for k, v in files.read_table(config).items() if k != "chat_template"})
    with pytest.raises(CheckpointError, match="chat template"):
        load_seeing(tmp_path / "m", device="cpu")
