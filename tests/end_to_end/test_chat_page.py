"""The chat page in headless Chromium, by keyboard, at the widths of a telephone and a desk, light and dark."""

from __future__ import annotations

import json

import pytest
from _browser import needs_chromium
from _engine_models import HistoryModel
from _servers import running, tokenizer_with
from test_server_tools import QWEN

from llmanac.generate.constrain import compile_kernels
from llmanac.generate.engine import Engine

pytestmark = needs_chromium
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THINKS = "{# <think> </think> #}"  # the model may think
FUNCTION = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]


def answered(text):
    """What the model says to a conversation that is written as the template writes it."""
    last = text.rsplit("<|im_start|>", 2)[-2]
    if last.startswith("tool"):
        return "It rains."
    if "weather" in last and "<tools>" in text:
        return CALL
    if "think" in last:
        return "<think>A moment.</think>Done."
    if "long" in last:
        return "word " * 400
    system = text.partition("<|im_start|>system\n")[2].partition("<|im_end|>")[0]
    return f"{len(text.split('<|im_start|>user')) - 1} asked" + (f", {system}" if system else "")


@pytest.fixture(scope="module")
def page():
    tokenizer = tokenizer_with(THINKS + QWEN, ("<tool_call>", "</tool_call>", "<think>", "</think>"))
    said = {}

    def script(ids):
        start = len(ids) - 1 - ids[::-1].index(tokenizer.special_tokens["<|im_start|>"])
        head = tuple(ids[: start + len(tokenizer.encode("<|im_start|>assistant\n", special="all"))])
        if head not in said:
            text = tokenizer.decode(list(head))
            said[head] = [*tokenizer.encode(answered(text), special="all"), tokenizer.eos_id]
        return said[head][min(len(ids) - len(head), len(said[head]) - 1)]

    model = HistoryModel(script=script, max_length=8192, vocab_size=tokenizer.vocab_size, seconds=0.002)
    engine = Engine(model, tokenizer)
    compile_kernels(tokenizer, engine.eos_ids, model.vocab_size)
    with running(engine) as server:
        yield server


@pytest.fixture
def opened(browser, page):
    browser.errors.clear()
    browser.size(1200)
    browser.scheme("light")
    browser.open(f"{page.url}/")
    browser.until("model !== null")
    yield browser
    assert not browser.errors


def send(browser, text):
    browser.run("document.getElementById('input').focus()")
    browser.write_text(text)
    browser.press("Enter", 13)


def last(browser, text):
    """Wait until the last answer is this text and is whole."""
    said = "[...document.querySelectorAll('article.assistant > p')].at(-1)?.textContent"
    browser.until(f"running === null && {said} === {json.dumps(text)}")


def press(browser, label, which=-1):
    """Press a button by its label, with the keyboard."""
    wanted = f"b => b.textContent === {json.dumps(label)} && b.checkVisibility()"
    browser.run(f"[...document.querySelectorAll('button')].filter({wanted}).at({which}).focus()")
    browser.press("Enter", 13)


def test_a_conversation_is_edited_and_tried_again(opened):
    send(opened, "one")
    last(opened, "1 asked")
    send(opened, "two")
    last(opened, "2 asked")
    press(opened, "Retry")
    last(opened, "2 asked")
    assert opened.run("messages.length") == 4
    press(opened, "Edit", 0)
    assert opened.run("[messages.length, document.querySelectorAll('article').length, input.value]") == [0, 0, "one"]
    opened.press("Enter", 13)
    last(opened, "1 asked")
    opened.press("Tab", 9)
    press(opened, "New chat")
    assert opened.run("messages.length") == 0


def test_a_system_prompt_and_files(opened):
    press(opened, "Settings")
    opened.run("document.getElementById('system').focus()")
    opened.write_text("Be brief.")
    send(opened, "one")
    last(opened, "1 asked, Be brief.")
    given = "new File(['a line of notes'], 'notes.txt'), new File(['x'], 'a.png', {type: 'image/png'})"
    opened.run(f"add([{given}])")
    opened.until("added.length === 1 && $('status').textContent.includes('reads text alone')")
    send(opened, "two")
    last(opened, "2 asked, Be brief.")
    assert opened.run("messages[2].content") == "notes.txt:\na line of notes\n\ntwo"
    assert opened.run("document.querySelector('article.user details pre').textContent") == "a line of notes"


def test_calls_are_shown_and_their_results_sent(opened):
    opened.run(f"tools.value = {json.dumps(json.dumps(FUNCTION))}")
    send(opened, "weather in Oslo?")
    opened.until("running === null && document.querySelector('article summary')?.textContent === 'Calls weather'")
    assert json.loads(opened.run("document.querySelector('article details pre').textContent")) == {"city": "Oslo"}
    opened.write_text("rain")  # the field has the focus
    press(opened, "Send results")
    last(opened, "It rains.")
    assert opened.run("messages.map(m => m.role)") == ["user", "assistant", "tool", "assistant"]


def test_a_thought_a_stop_and_json(opened):
    send(opened, "please think")
    last(opened, "Done.")
    assert (
        opened.run("[...document.querySelectorAll('article.assistant details')].at(-1).textContent")
        == "ThoughtA moment."
    )
    send(opened, "a long text")
    opened.until("[...document.querySelectorAll('article.assistant > p')].at(-1).textContent.length > 40")
    opened.press("Escape", 27)
    opened.until("running === null")
    assert opened.run("document.getElementById('status').textContent") == "Stopped."
    assert 40 < opened.run("messages.at(-1).content.length") < 2000
    opened.run("$('json').checked = true")
    assert opened.run("request().response_format.type") == "json_object"


def test_an_error_is_shown_and_nothing_is_lost(opened):
    opened.run("tools.value = '{'")
    send(opened, "one")
    opened.until("document.querySelector('article.error p')?.textContent.startsWith('Functions: this is not JSON')")
    opened.run("tools.value = ''")
    press(opened, "Retry")
    last(opened, "1 asked")
    assert opened.run("document.querySelectorAll('article.error').length") == 0


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_is_reached_by_keyboard_and_has_no_violation(opened, page, width, scheme):
    opened.size(width)
    opened.scheme(scheme)
    opened.run("localStorage.clear()")
    opened.open(f"{page.url}/?{width}{scheme}")
    opened.until("model !== null")
    assert opened.run("document.documentElement.dataset.theme") == scheme
    press(opened, "Settings")
    send(opened, "please think")
    last(opened, "Done.")
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    seen = set()
    for _ in range(30):
        opened.press("Tab", 9)
        seen.add(opened.run("document.activeElement.id || document.activeElement.textContent"))
    settings = {"system", "temperature", "json", "tools", "key"}
    assert settings | {"input", "send", "files", "theme", "new", "set", "Retry"} <= seen
    assert opened.violations() == []
