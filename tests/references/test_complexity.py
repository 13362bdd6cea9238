"""Counted operations and allocated bytes against theory: slopes over the length, closed forms, and what loops say."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmanac.cli import main
from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.kernels.nn import recurrence, scan
from llmanac.lab import complexity
from llmanac.models.mixers import sparse
from llmanac.models.scores import scaled_dot

SHORT, MIDDLE, LONG = (256, 512, 1024, 2048), (512, 1024, 2048, 4096), (1024, 2048, 4096, 8192)
SMALL = {  # fields, width and lengths at which constant parts are small; else {}, 16 and SHORT
    "multi-head": ("", 64, MIDDLE),
    "grouped-query": ("", 64, MIDDLE),
    "multi-query": ("", 64, MIDDLE),
    "latent": ("", 32, SHORT),
    "multi-head@flash": ("{heads=2}", 32, MIDDLE),
    "sliding-window": ("{window=16,heads=2}", 32, MIDDLE),
    "attention-sinks": ("{window=16,sinks=4,heads=2}", 32, MIDDLE),
    "longformer": ("{window=16,global_tokens=4,block=32,heads=2}", 32, MIDDLE),
    "big-bird": ("{window=16,global_tokens=4,block=32,random_blocks=1,heads=2}", 32, MIDDLE),
    "min-gru": ("", 8, MIDDLE),
    "s4": ("{states=4}", 8, LONG),
    "s4d": ("{states=4}", 8, LONG),
}
ATTENTION = {"multi-head", "multi-query", "grouped-query", "sliding-window", "attention-sinks", "latent"}


SLOW = pytest.mark.slow  # half a minute: all scores of long rows are made


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n == "multi-head@plain" else ()) for n in complexity.mixers()]
)
def test_slopes_are_those_of_theory(name, monkeypatch):
    monkeypatch.setattr(scaled_dot, "TILE", 64)
    monkeypatch.setattr(sparse, "TILE", 32)
    fields, dim, lengths = SMALL.get(name, ("", 16, SHORT))
    mixer, at, form = name.partition("@")
    text = mixer + fields + at + form
    rows = [complexity.measure(text, length, dim, timed=False) for length in lengths]
    theory = complexity.expected(text, lengths)
    assert set(theory) == set(complexity.COSTS)
    if mixer in ("multi-head", "multi-query", "grouped-query") and form != "flash":
        longer = [8 * length for length in lengths]  # vectors of the token itself are most of the bytes before
        subject = complexity.Subject(text, 16)
        for row, length in zip(rows, longer, strict=True):
            row["decode bytes"] = complexity.decoding(subject, subject.row(length), timed=False)["decode bytes"]
    found = {cost: complexity.slope(lengths, [row[cost] for row in rows]) for cost in theory}
    assert found == pytest.approx(theory, abs=0.15)


@pytest.mark.parametrize("name", complexity.mixers())
def test_products_equal_torchs_counter(name):
    """Where torch has a formula: the plain form of attention, since it knows no fused attention of the CPU."""
    name = name.partition("@")[0]
    name += "@plain" if name in ATTENTION else ""
    subject = complexity.Subject(name, 16)
    x = subject.row(70)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        subject(x)
    with torch.no_grad(), complexity.Operations() as ours:
        subject(x)
    assert ours.products == theirs.get_total_flops() > 0
    assert ours.others > 0


def test_the_fused_form_of_attention_counts_what_the_plain_form_does():
    for length, dim in ((64, 16), (96, 32)):
        counts = []
        for form in ("sdpa", "plain"):
            subject = complexity.Subject(f"multi-head@{form}", dim)
            with complexity.Operations() as forward:
                loss = subject(subject.row(length)).sum()
            with complexity.Operations() as backward:
                loss.backward()
            counts.append((forward.products, backward.products))
        assert counts[0][0] == counts[1][0]
        assert counts[0][1] == counts[1][1] + 2 * length**2 * dim  # the scores, which are made again


def test_a_window_with_sinks_reads_by_tiles_what_the_plain_form_does(monkeypatch):
    monkeypatch.setattr(scaled_dot, "TILE", 16)
    found = []
    for form in ("sdpa", "plain"):
        subject = complexity.Subject(f"attention-sinks{{window=6,sinks=3}}@{form}", 16)
        subject.model.double()
        x = subject.row(75).double().requires_grad_()
        with complexity.Operations() as counted:
            y = subject(x)
        found.append((counted.products, y, *torch.autograd.grad(y.square().sum(), [x])))
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-10, atol=1e-12)
    assert found[0][0] < found[1][0] / 1.5


@pytest.mark.parametrize("states", [2, 5])
def test_the_scan_counts_what_its_steps_in_torch_do(states):
    rows, length, width = 2, 64, 6
    sizes = ((rows, length, width),) * 2, ((width, states),), ((rows, length, states),) * 2, ((rows, width, states),)
    values = [torch.rand(size, dtype=torch.float64) for group in sizes for size in group]
    values[2].neg_()

    def plain(u, dt, a, b, c, h):
        return scan.plain_scan(torch.exp(dt[..., None] * a), (dt * u)[..., None] * b[:, :, None], c, h)

    found = []
    for run in (scan.selective_scan, plain):
        given = [value.clone().requires_grad_() for value in values]
        with complexity.Operations() as forward:
            y, h = run(*given)
        with complexity.Operations() as backward:
            torch.autograd.grad(y.sum() + h.sum(), given)
        assert forward.products == backward.products == 0
        found.append((forward.others, backward.others))
    assert found[0] == pytest.approx(found[1], rel=0.01)
    assert found[1][0] == rows * length * width * (7 * states + 1)


@pytest.mark.parametrize("name", ["rnn", "rnn-relu", "gru", "lstm"])
def test_a_compiled_recurrence_counts_what_its_cells_do(name):
    rows, length, hidden = 3, 40, 7
    mixer = build("mixer", name, dim=4, hidden=hidden).double()
    weight, bias = mixer.hidden_proj.weight, mixer.hidden_proj.bias
    wide = mixer.gates * hidden
    found = []
    for compiled in (True, False):
        x = torch.randn(rows, length, wide, dtype=torch.float64, requires_grad=True)
        h = tuple(torch.randn(rows, hidden, dtype=torch.float64, requires_grad=True) for _ in range(mixer.memories))
        with complexity.Operations() as forward:
            y, _ = recurrence.walk(mixer.kernel, x, weight, bias, h) if compiled else mixer.steps(x, h, None, None)
        with complexity.Operations() as backward:
            torch.autograd.grad(y.sum(), [x, weight, bias, *h])
        found.append((forward.products, backward.products, forward.others, backward.others))
    assert found[0][:3] == found[1][:3]
    assert found[0][0] == 2 * rows * length * hidden * wide and found[0][1] == 2 * found[0][0]
    # autograd adds up the gradients of W and b over the steps, where the loop has one product over all of them
    assert found[0][3] == pytest.approx(found[1][3] - (length - 1) * wide * (hidden + 1), rel=0.05)


def test_recurrent_and_attention_costs_equal_the_closed_forms():
    """6 T d^2 against 8 T d^2 + 4 T^2 d, and a state of d numbers against a cache of 2 T d."""
    for length, dim in ((64, 16), (256, 16), (256, 32)):
        for name, work, state in (
            ("rnn", 6 * length * dim**2, dim),
            ("multi-head", 8 * length * dim**2 + 4 * length**2 * dim, 2 * length * dim),
            ("multi-head@plain", 8 * length * dim**2 + 4 * length**2 * dim, 2 * length * dim),
        ):
            subject = complexity.Subject(name, dim)
            x, kept = subject.row(length), subject.model.start(1)
            with torch.no_grad(), complexity.Operations() as counted:
                subject(x)
            with torch.no_grad():
                subject(x, kept)
            assert counted.products == work == length * subject.model.model.layers[0].flops(length)
            assert kept.nbytes == 4 * state  # lengths are powers of two, at which no capacity is unused


def test_break_even_lies_between_measured_lengths():
    lengths = [256, 512, 1024, 2048]
    quadratic, linear = [n * n / 700 for n in lengths], [float(n) for n in lengths]
    assert complexity.faster_from(lengths, quadratic, linear) == pytest.approx(700)
    assert complexity.faster_from(lengths, linear, quadratic) is None
    assert complexity.faster_from(lengths, [2 * x for x in linear], linear) == 256
    assert complexity.faster_from(lengths, [1.0, 3.0, 1.0, 4.0], [2.0] * 4) == pytest.approx(1024 * 2**0.5)


def test_slopes_of_known_growth():
    lengths = (512, 1024, 2048, 4096)
    for growth, power in (("s^2", 2), ("s", 1), ("1", 0)):
        values = [3 * complexity.GROWTH[growth](s) for s in lengths]
        assert complexity.slope(lengths, values) == pytest.approx(power)
    assert 1.1 < complexity.slope(lengths, [complexity.GROWTH["s log s"](s) for s in lengths]) < 1.2


@pytest.mark.parametrize(
    "name, message",
    [
        ("mambo", "did you mean 'mamba'"),
        ("cross", "reads an encoder's output"),
        ("multi-head@fast", "'fast' is not one of sdpa, plain"),
        ("mamba{state=3}", "no such field.*states"),
    ],
)
def test_a_mixer_that_cannot_be_measured_is_refused_by_name(name, message):
    with pytest.raises(SpecError, match=message):
        complexity.curves(
            ["gru", name], (8, 16), 16, report=lambda line: pytest.fail("measured before all are checked")
        )


@pytest.mark.slow
def test_the_command(capsys, tmp_path):
    picture = tmp_path / "times.svg"
    arguments = ["complexity", "gru", "mamba{states=4}", "multi-head@plain", "--longest", "128", "--dim", "8"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "-o", str(picture)])
    assert not done.value.code
    said = capsys.readouterr().out
    assert "Slopes of log cost over log length (16 to 128 tokens, width 8)" in said
    assert "mamba{states=4}" in said and "s^2 " in said and "Faster than multi-head" in said
    assert "nan" not in said and "llmanac compare mixer --arms 'multi-head,gru'" in said
    drawn = ElementTree.parse(picture).getroot()
    named = "".join(drawn.itertext())
    assert all(name in named for name in ("multi-head", "gru", "mamba{states=4}", "multi-head@plain"))
    assert "width 8" in drawn.attrib["aria-label"]
    with pytest.raises(SystemExit) as refused:
        main([*arguments, "-o", str(picture)])
    assert refused.value.code == 2 and "--output: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["lengths"] == [8, 16, 32, 64, 128] and len(found["costs"]["gru"]["forward bytes"]) == 5
    assert set(found["faster from"]) == {"gru", "mamba{states=4}", "multi-head@plain"}
    with pytest.raises(SystemExit) as refused:
        main(["complexity", "gru", "-o", str(tmp_path / "times.png")])
    assert refused.value.code == 2 and "should end in .svg" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, field",
    [
        (["--longest", "2000000"], "--longest"),
        (["--dim", "8192"], "--dim"),
        ([""], "mixers: ''"),
        (["multi-head@plain", "--longest", "1048576"], "--longest: multi-head@plain needs about"),
    ],
)
def test_what_is_too_large_names_its_flag(arguments, field, capsys):
    with pytest.raises(SystemExit) as refused:
        main(["complexity", *arguments])
    assert refused.value.code == 2 and field in capsys.readouterr().err
