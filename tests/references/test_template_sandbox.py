"""Chat templates run in one process of their own with a clock and a memory limit, and write what Jinja writes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers.chat import process as _sandbox
from llmanac.tokenizers.chat.template import ChatTemplate

SAID = [{"role": "user", "content": "a"}]
HONEST = "{% for m in messages %}{{ m.content }}{% endfor %}"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "SECONDS", 1.0)


def honest() -> str:
    return ChatTemplate(HONEST).render(SAID, False, {})


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


ATTACKS = [
    "{{ ('{0:>9999}' * 200000).format(1) | length }}",
    "{{ ('{0:>9999}' * 200000).format(1) }}",
    "{{ range(99999) | list | tojson(separators=('a' * 99999, 'b')) }}",
    "{% set s = ' ' * 9999999 %}{% for i in range(99999) %}{% set x = s.strip() %}{% endfor %}",
    "{% set s = ('a ' * 999999) %}{% for i in range(99999) %}{% set x = s | trim | length %}{% endfor %}",
    "{{ ([[1] * 9999] * 99999) | sum(start=[]) | length }}",
    ENDLESS,
    "{% set r = range(99999) %}{% for i in r %}{% for j in r if j < 0 %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 'a' * 10**10 }}",
    "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
    GROWS + "{{ n.s }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 10 ** (10 ** 8) }}",
    "{{ (10 ** (10 ** 8)) % 7 }}",
    "{% set n = 10 ** 8 %}{{ 10 ** n % 7 }}",
    "{% set n = namespace(s=3) %}{% for i in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
    "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(45) %}{% set n.a = [n.a, n.a] %}"
    "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    "{% set l = range(99999) | list %}{{ range(100000, 199999) | select('in', l) | list | length }}",
    "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ [1, 2] | tojson(indent=10**9) }}",
    "{{ lipsum(n=10**9) }}",
    "{{ (1).to_bytes(6000000000, 'big') | length }}",
    "{{ ('a' * 99999 ~ ' ') | wordwrap(1) | urlize * 99999 }}",
    "{{ raise_exception('a' * 9**9) }}",
    "{{ undefined_name.attribute }}",
    "{{ 1 / 0 }}",
    "{{ range(10**9) | list }}",
    "{% for a in [1] %}" * 21 + "{% endfor %}" * 21,
    "{% if 1 %}" * 101 + "{% endif %}" * 101,
    "{{ " + "(" * 9999 + ")" * 9999 + " }}",
    "{{ " + "1" * 5000 + " }}",
    "{% generation %}a{% endgeneration %}" * 7000 + "{% for i in range(99999) %}{% generation %}a{% endgeneration %}"
    "{% endfor %}",
]


@pytest.mark.parametrize("template", ATTACKS, ids=lambda template: template[:60])
def test_a_template_that_attacks_is_one_sentence_and_the_next_is_rendered(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest()
    before, start = peak(), time.monotonic()
    with monkeypatch.context() as patch, pytest.raises(TokenizerError, match=r"^chat template") as found:
        patch.setattr(_sandbox, "SECONDS", 0.1)
        list(ChatTemplate(template).rendered([(SAID, False)], {}, ["<s>"], roles=set()))
    assert time.monotonic() - start < 60, "a bound, not a timing: without a clock these take hours"
    assert len(str(found.value)) < 700 and "\n" not in str(found.value)
    assert honest() == "a"
    assert peak() - before < 32 << 10, "kB of this process: what a template makes stays in its own"


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (ENDLESS, SAID, "takes more than 1.05 s"),
        (GROWS + "{{ n.s }}", SAID, "more than 512 MiB of memory"),
        ("{{ 'a' * 10**9 }}", SAID, "more than 512 MiB of memory"),
        ("{{ 'a' * (2**24 + 1) }}", SAID, "writes more than 16,777,216 characters"),
        ("{{ '\0' * 12000000 }}", SAID, "writes more than 67,108,864 bytes"),
        ("a" * 50_000_000, SAID, "chat template: 50,000,000 characters"),
        ("\n\n{{ undefined_name.attribute }}", SAID, r"'undefined_name' is undefined \(line 3\)"),
        (HONEST, [{"role": "user", "content": "a" * 40_000_000}], "messages: 40,000,.* bytes"),
        (HONEST, [{"role": "user", "content": 10**5000}], "messages: .*digits"),
        (HONEST, [{"role": "user", "content": json.loads("[" * 900 + "]" * 900)}], r"messages\[0\].content.* nested"),
    ],
    ids=["time", "memory", "gigabyte", "output", "bytes", "source", "line", "messages", "number", "nested"],
)
def test_every_bound_is_named(
    template: str, messages: list[dict[str, object]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sandbox, "SECONDS", 1.0 if template is ENDLESS else 60.0)
    with pytest.raises(TokenizerError, match=says):
        ChatTemplate(template).render(messages, False, {})
    assert honest() == "a"


def test_the_clock_is_for_all_that_a_conversation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding who wrote what renders a conversation once for each turn; a slow template may not be slow each time."""
    monkeypatch.setattr(_sandbox, "A_MESSAGE", 0.0)
    slow = "{% for i in range(99999) %}{% set x = i|string %}{% endfor %}"
    template = ChatTemplate(slow + "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    said = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 400
    with pytest.raises(TokenizerError, match="more than 1 s"):
        list(template.rendered([(said, False)], {}, ["<s>", "</s>"], roles=set()))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ (messages | attr('__class__')).__init__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ raise_exception.__globals__.sys }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "{{ self._TemplateReference__context.environment.filters.__class__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_no_template_reaches_beyond_its_data(template: str) -> None:
    try:
        assert ChatTemplate(template).render(SAID, False, {}) == ""
    except TokenizerError as error:
        assert str(error).startswith("chat template")


def test_one_process_renders_and_is_replaced_when_it_dies() -> None:
    honest()
    first = _sandbox.HELPER.pid
    assert honest() == "a" and _sandbox.HELPER.pid == first is not None
    os.kill(first, signal.SIGKILL)
    assert honest() == "a"
    second = _sandbox.HELPER.pid
    os.kill(second, signal.SIGINT)  # Ctrl-C is for this process
    assert honest() == "a" and _sandbox.HELPER.pid == second != first


def test_a_process_killed_while_it_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "SECONDS", 600.0)
    failed: list[str] = []

    def render() -> None:
        try:
            ChatTemplate(ENDLESS).render(SAID, False, {})
        except TokenizerError as error:
            failed.append(str(error))

    honest()
    thread = threading.Thread(target=render)
    thread.start()
    killed = set()
    while thread.is_alive():  # it is tried again once
        if (pid := _sandbox.HELPER.pid) is not None and _is_busy(pid):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    assert len(killed) == 2 and "died twice" in failed[0]
    assert honest() == "a"


def _is_busy(pid: int) -> bool:
    """Whether a process has used half a second since it started."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[11]) + int(fields[12]) > os.sysconf("SC_CLK_TCK") // 2


def test_threads_render_while_one_attacks() -> None:
    wrong: list[object] = []

    def render(number: int) -> None:
        for i in range(20):
            if (text := ChatTemplate(HONEST + str(number)).render(SAID * i, False, {})) != "a" * i + str(number):
                wrong.append(text)

    def attack() -> None:
        for template in (ENDLESS, "{{ 'a' * 10**9 }}", GROWS):
            with pytest.raises(TokenizerError):
                ChatTemplate(template).render(SAID, False, {})

    threads = [threading.Thread(target=attack), *(threading.Thread(target=render, args=(i,)) for i in range(7))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert wrong == []


def test_many_conversations_in_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []
    ask = _sandbox.HELPER.ask
    monkeypatch.setattr(_sandbox.HELPER, "ask", lambda data, times: (requests.append(len(times)), ask(data, times))[1])
    chats = [([{"role": "user", "content": str(i)}], False) for i in range(300)]
    texts = [chat.text for chat in ChatTemplate(HONEST).rendered(chats, {}, [], roles=set())]
    assert texts == [str(i) for i in range(300)] and sum(requests) == 300 and len(requests) < 10
    assert list(ChatTemplate(HONEST).rendered([], {}, [], roles=set())) == []


@pytest.mark.parametrize("bad", ["raise", "endless", "memory"])
def test_of_many_conversations_those_before_the_one_that_fails_come_out(bad: str) -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'raise' %}{{ raise_exception('no') }}{% endif %}"
        "{% if m.content == 'endless' %}" + ENDLESS + "{% elif m.content == 'memory' %}" + GROWS + "{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    chats = [([{"role": "user", "content": bad if i == 70 else str(i)}], False) for i in range(100)]
    found = ChatTemplate(template).rendered(chats, {}, [], roles=set())
    assert [next(found).text for _ in range(70)] == [str(i) for i in range(70)]
    with pytest.raises(TokenizerError, match="chat template"):
        next(found)


PROGRAM = """
import os, signal, sys, time
from llmanac.core.errors import TokenizerError
from llmanac.tokenizers.chat import process as _sandbox
from llmanac.tokenizers.chat.template import ChatTemplate
SAID = [{"role": "user", "content": "a"}]
def render(template="{{ messages[0].content }}"):
    return ChatTemplate(template).render(SAID, False, {})
assert not {"jinja2", "torch"} & set(sys.modules)
assert render() == "a"
print(_sandbox.HELPER.pid, flush=True)
"""


def started(rest: str) -> tuple[subprocess.Popen[str], int]:
    """A program that has rendered a template, and the process that it did it with."""
    source = str(Path(_sandbox.__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM + textwrap.dedent(rest)],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline() or 0)


def ends(pid: int, seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


@needs_proc
def test_the_process_ends_with_ours() -> None:
    process, helper = started("")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == "" and ends(helper)


@needs_proc
@pytest.mark.parametrize("rest", ["time.sleep(600)", "_sandbox.SECONDS = 1.0\nrender({endless!r})"])
def test_the_process_ends_when_ours_is_killed(rest: str) -> None:
    """Between requests since its input closes, in one since its own alarm goes off."""
    process, helper = started(rest.format(endless=ENDLESS))
    time.sleep(0.3)
    process.kill()
    process.communicate(timeout=60)
    assert ends(helper)


@needs_proc
def test_ctrl_c_ends_a_render_and_the_next_works() -> None:
    process, helper = started(f"""
        _sandbox.SECONDS = 600.0
        try:
            render({ENDLESS!r})
        except KeyboardInterrupt:
            print("interrupted", render(), flush=True)
        """)
    while not _is_busy(helper):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (out.strip(), errors, process.returncode) == ("interrupted a", "", 0)
    assert ends(helper)


@needs_proc
def test_a_forked_process_has_its_own() -> None:
    process, _ = started("""
        mine = _sandbox.HELPER.pid
        child = os.fork()
        if child == 0:
            os._exit(0 if render() == "a" and _sandbox.HELPER.pid != mine else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0 and render() == "a" and _sandbox.HELPER.pid == mine
        """)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_where_no_process_starts_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    helper = _sandbox.Helper()
    monkeypatch.setattr(_sandbox, "HELPER", helper)
    for program in (tmp_path / "absent", Path("/bin/false")):
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(TokenizerError, match=r"chat template: .* start"):
            honest()


@pytest.fixture
def peer() -> Iterator[ImmutableSandboxedEnvironment]:
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    yield made


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.content %}{{ loop.index }}{{ m.content ~ ' ' ~ 1 ~ undefined_name }}{% endfor %}",
        "{% for m in messages recursive %}{{ m.content | trim | replace('a', 'bb') }}{% else %}none{% endfor %}",
        "{{ messages | tojson(indent=2) }}{{ '%s and %05d' | format('{\"a\": {', 7) }}{{ '{\"a\": {%s' % 1700000000 }}",
        "{{ '{} {:>5}'.format(1700000000, 'x') }}{{ 1700000000 | tojson }}",
        "{{ messages | map(attribute='role') | join(', ') }}",
        "{% set n = namespace(s='') %}{% for m in messages %}{% set n.s = n.s + m.content %}{% endfor %}"
        "{{ n.s|upper }}",
        "{% macro m(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call m(1) %}b{% endcall %}{{ messages[-1]['no'] }}",
        "{% set a, b = messages[0].content * 9999, messages[1].content * 9999 %}{{ '%s: %s 100%% 12345' % (a, b) }}"
        "{{ '%s: %s' | format(a, b) }}{{ '{}: {}'.format(a, b) }}{{ a.replace('<b>', b, 1) }}"
        "{{ a | replace('b', '@@') }}",
        "{% for m in messages %}{% if m.role in ('user', 'x') and m.content is string and 3 > loop.index >= 1 %}"
        "{{ {'a': [1, m.role], 'b': (2,)} }}{{ m.content[1:3] }}"
        "{{ messages[::-1] | map(attribute='role') | list }}{% endif %}"
        "{% endfor %}{% set x, y = 1, [2, 3] %}{% for k, v in {'p': 1}.items() %}{{ k, v, x, y }}{% endfor %}",
        "{% for m in messages %} text {{ m.role }}{% endfor %}{% filter upper %}a{{ 1 }}{% endfilter %}",
        "{% set s %}a{{ 1 }} b{% endset %}{{ s }}{{ '-'.join(messages | map(attribute='role')) }}{{ [1, 2] + [3] }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 7 // 2 }}{{ 2 ** 8 }}{{ 7 % 4 }}",
        "{{ messages[0].content.split('<')[-1].lstrip('\n') }}{{ undefined_name }}{{ none }}{{ true }}{{ 3 / 2 }}"
        "{{ [1] * 3 }}",
        "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}"
        "{% for k, v in messages[0].items() %}"
        "{{ k }}={{ v }};{% endfor %}",
    ],
)
def test_templates_write_what_jinja_writes(template: str, peer: ImmutableSandboxedEnvironment) -> None:
    said = [{"role": "user", "content": " a <b> "}, {"role": "assistant", "content": "ja\nja"}]
    assert ChatTemplate(template).render(said, False, {}) == peer.from_string(template).render(messages=said)


def test_any_text_passes_the_pipe_unchanged() -> None:
    text = '\ud83d\ude00 \ud800 \U0001f600 \0 \u2028 "\\ é'
    given = {"n": -1.5, "big": 2**70, "yes": True, "table": {"b": [None, 1], "a": float("inf")}}
    template = "{{ messages[0].content }}|{{ n }}|{{ big }}|{{ yes }}|{{ table }}"
    found = ChatTemplate(template).render([{"role": "user", "content": text}], False, given)
    assert found == f"{text}|-1.5|{2**70}|True|{given['table']}"


def test_what_a_template_raises_is_printable() -> None:
    """No escape reaches a terminal, and no lone surrogate a JSON document."""
    template = ChatTemplate("{{ raise_exception('\\x1b[31mred\\x07\\ud800') }}")
    with pytest.raises(TokenizerError, match="red") as caught:
        template.render([{"role": "user", "content": "a"}], False, {})
    assert str(caught.value).isprintable() and str(caught.value).encode("utf-8")
