"""Chat templates run in a sandbox with a clock and bounds, and write what Jinja's own sandbox writes."""

from __future__ import annotations

import json
import resource
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers import _sandbox
from llmanac.tokenizers._chat import ChatTemplate


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ range(10**9) | list }}",
        "{{ 'a' * 10**10 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) %}{% for i in r %}{% for j in r if j < 0 %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=3) %}{% for i in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s|tojson }}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
        "{% macro m() %}{% for i in range(99999) %}{{ 'a' * 9999999 }}{% endfor %}{% endmacro %}{{ m()|length }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}",
        "{{ range(99999)|join('b' * 99999) }}",
        "{{ (['b' * 9999999] * 9999)|join }}",
        "{{ ('b' * 9999).join(['a'] * 99999) }}",
        "{{ 'a'|center(10**9) }}",
        "{{ 'a'.rjust(10**9) }}",
        "{{ 1.5|round(10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=10**9) }}",
        "{{ [1, 2]|tojson(indent=10**9) }}",
        "{{ lipsum(n=10**9) }}",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(45) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
        "{% set n = namespace(a=(1, 2)) %}{% for i in range(45) %}{% set n.a = (n.a, n.a) %}{% endfor %}{{ {n.a: 1} }}",
        "{% set n = namespace(a=1) %}{% for i in range(45) %}{% set n.a = dict(a=n.a, b=n.a) %}{% endfor %}{{ n.a }}",
        "{% set n = namespace(a=[1]) %}{% for i in range(99999) %}{% set n.a = (n.a,) %}{% endfor %}{{ {n.a: 1} }}",
        "{% set l = range(99999)|list %}{{ range(100000, 199999)|select('in', l)|list|length }}",
        "{% set l = range(99999)|list %}{% for i in range(99999) %}{% set x = -1 in l %}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 50_000 + "{% endfor %}",
        "{{ (1).to_bytes(6000000000, 'big')|length }}",
        "{{ true.to_bytes(6000000000, 'big')|length }}",
        "{% set s = 'a' * 16000000 %}{{ s.join(range(400)|map('string'))|length }}",
        "{% set n = namespace(l=[]) %}{% for i in range(1000) %}"
        "{% set n.l = [n.l, '\U0001f600' * 16000000] %}{% endfor %}",
        "{% set s = 'a' * 16000000 %}{% set n = namespace(l=[]) %}{% for i in range(9999) %}"
        "{% set n.l = n.l + [s[1:]] %}"
        "{% endfor %}",
        "{{ strftime_now('%2000000000d') }}",
        "{% for a in [1] %}" * 21 + "{% endfor %}" * 21,
        "{% if 1 %}" * 101 + "{% endif %}" * 101,
        "{{ " + "1" * 5000 + " }}",
    ],
)
def test_templates_that_do_not_end_or_fail_are_one_sentence(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "SECONDS", 0.2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(TokenizerError, match="chat template"):
        ChatTemplate(template).render([{"role": "user", "content": "a"}], False, {})
    assert time.process_time() - start < 60, "a bound, not a timing: without a clock these take hours"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def test_one_clock_for_all_that_a_conversation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding who wrote what renders a conversation once for each turn; a slow template may not be slow each time."""
    monkeypatch.setattr(_sandbox, "SECONDS", 0.3)
    monkeypatch.setattr(_sandbox, "A_MESSAGE", 0.0)
    slow = "{% for i in range(30000) %}{% set x = i|string %}{% endfor %}"
    template = ChatTemplate(slow + "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    said = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 40
    with pytest.raises(TokenizerError, match="more than"):
        template.rendered(said, False, {}, ["<s>", "</s>"], roles=set())


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
def test_the_watched_sandbox_writes_what_jinja_writes(template: str) -> None:
    peer = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    peer.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    said = [{"role": "user", "content": " a <b> "}, {"role": "assistant", "content": "ja\nja"}]
    assert ChatTemplate(template).render(said, False, {}) == peer.from_string(template).render(messages=said)
