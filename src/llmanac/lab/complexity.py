"""How the cost of a mixer grows with the length: operations, allocated bytes and time, and slopes of their logs.

    slope of log(cost) over log(s) by least squares: 2 for O(s^2), 1 for O(s), 0 for O(1), about 1.1 for O(s log s)

Each mixer is the only layer of a model without a feed-forward layer, with one row of s tokens, in float32 on one
thread. Measured are the forward pass, the backward pass, and decoding one token after s - 1 others. Operations are
products (2 m n k, as `torch.utils.flop_counter` counts them; of causal attention the full square where a kernel
computes it in one piece), FFTs (5 n log2 n) and one for each element of any other arithmetic. Compiled loops say what
they did (`kernels/nn/scan.py`). Bytes are the allocator's own events. Counts do not depend on the machine,
seconds do.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmanac.core import registry
from llmanac.core.device import system_memory
from llmanac.core.errors import SpecError, nearest
from llmanac.core.pages import Chart, Line, line_chart
from llmanac.core.progress import progress
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest
from llmanac.kernels.nn.scan import LISTENERS
from llmanac.lab.arms import parse_arm
from llmanac.lab.costs import allocated
from llmanac.models.forward import ATTENTION_FORMS

Found = Mapping[str, Mapping[str, Sequence[float]]]  # mixer -> cost -> its values over the lengths
LENGTHS = (256, 512, 1024, 2048, 4096)
ROUNDS = 3
PROBES = (256, 512)  # lengths at which memory is estimated
FULL = "multi-head"  # what the others are compared with
MARGIN = 0.05  # differences of time that are smaller do not count
COSTS = (
    "forward operations", "backward operations", "forward bytes", "training bytes", "decode operations",
    "decode bytes", "state",
)  # fmt: skip


@dataclass(frozen=True)
class Theory:
    """How a mixer's costs grow with the length s: s^2, s, s log s or 1.

    work: operations of a pass over s tokens, as the paper has it; d is the width, w the keys seen, N the states.
    memory: bytes of a pass; decode: operations and bytes of the next token; state: bytes kept for it.
    """

    work: str
    memory: str
    decode: str
    state: str
    formula: str = ""


ATTENTION = Theory("s^2", "s", "s", "s", "s d^2 + s^2 d")
RECURRENT = Theory("s", "s", "1", "1", "s d^2")
WINDOW = Theory("s", "s", "1", "1", "s d^2 + s w d")
PATTERN = Theory("s", "s", "s", "s", "s d^2 + s w d")  # keeps all keys; compares a new token with all under a mask
THEORY: dict[str, Theory] = {
    "multi-head": ATTENTION, "multi-head@flash": ATTENTION, "grouped-query": ATTENTION, "multi-query": ATTENTION,
    "multi-head@plain": Theory("s^2", "s^2", "s", "s", "s d^2 + s^2 d"), "latent": ATTENTION,
    "sliding-window": WINDOW, "attention-sinks": WINDOW,
    "longformer": PATTERN, "big-bird": PATTERN, "sparse": PATTERN,
    "linear": RECURRENT, "random-features": Theory("s", "s", "1", "1", "s d^2 + s m d"), "lightning": RECURRENT,
    "rnn": RECURRENT, "gru": RECURRENT, "lstm": RECURRENT, "short-conv": RECURRENT,
    "min-gru": Theory("s log s", "s", "1", "1", "s d^2 + d s log s"),
    "mamba": Theory("s", "s", "1", "1", "s d^2 + s d N"), "mamba2": Theory("s", "s", "1", "1", "s d^2 + s d N"),
    "s4": Theory("s log s", "s", "1", "1", "s d^2 + s d N + d s log s"),
    "s4d": Theory("s log s", "s", "1", "1", "s d^2 + s d N + d s log s"),
}  # fmt: skip
GROWTH: dict[str, Callable[[float], float]] = {
    "s^2": lambda s: s * s, "s": lambda s: s, "s log s": lambda s: s * math.log2(s), "1": lambda s: 1.0,
}  # fmt: skip
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # where the first factor is
SDPA = "_scaled_dot_product_flash_attention_for_cpu"
REDUCTIONS = {
    "sum", "mean", "amax", "cumsum", "_softmax", "_softmax_backward_data", "native_layer_norm", "logsumexp", "prod",
}  # fmt: skip
MOVES = {"clone", "copy_", "masked_fill", "masked_fill_", "where", "zero_", "fill_", "_to_copy", "clamp", "clamp_"}


class Operations(TorchDispatchMode):
    """Counts what is computed below it.

    Attributes:
        products: FLOPs of matrix products and convolutions; others: FFTs and operations on single elements;
        spared: of `products`, what a kernel of attention does twice, or for keys that a causal mask hides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.others = self.spared = 0.0

    @property
    def total(self) -> float:
        return self.products + self.others

    def __enter__(self) -> Any:
        LISTENERS.append(self._heard)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        LISTENERS.remove(self._heard)

    def _heard(self, count: float) -> None:
        self.others += count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        plain = name.rstrip("_") if name.endswith("_") and not name.startswith("_") else name
        if plain in PRODUCTS:
            a, b = args[PRODUCTS[plain] : PRODUCTS[plain] + 2]
            self.products += 2.0 * a.numel() * b.shape[-1]
        elif name in (SDPA, f"{SDPA}_backward"):
            at = 1 if name.endswith("backward") else 0
            (rows, heads, length, dim), keys, values = args[at].shape, args[at + 1].shape[2], args[at + 2].shape[-1]
            # the backward pass makes the scores again: 3 products of width d, 2 of that of the values
            pairs = 2.0 * rows * heads * length * keys
            self.products += pairs * (3 * dim + 2 * values if at else dim + values)
            hidden = (1 - 1 / length) / 2 if args[4 + 3 * at : 5 + 3 * at] == (True,) else 0.0  # under a causal mask
            self.spared += pairs * (at * dim + hidden * (1 + at) * (dim + values))
        elif name == "_linear_pointwise":  # of oneDNN
            self.products += 2.0 * args[0].numel() * args[1].shape[0]
        elif name == "convolution":
            self.products += 2.0 * out.numel() * args[1][0].numel()
        elif name == "convolution_backward":
            self.products += sum(args[10][:2]) * 2.0 * args[0].numel() * args[2][0].numel()
        elif name.startswith("_fft"):
            full = args[0] if name == "_fft_r2c" else out
            sides = math.prod(full.shape[axis] for axis in args[1])
            self.others += (5.0 if name == "_fft_c2c" else 2.5) * full.numel() * math.log2(max(2, sides))
        elif isinstance(first, torch.Tensor) and (first.is_floating_point() or first.is_complex()):
            if name in REDUCTIONS:
                self.others += max(x.numel() for x in args if isinstance(x, torch.Tensor))
            elif torch.Tag.pointwise in func.tags and name not in MOVES:
                self.others += first.numel()
        return out


def operations(run: Callable[[], Any]) -> float:
    """How many operations a call does."""
    with Operations() as counted:
        run()
    return counted.total


class Subject:
    """A mixer as the only layer of a model, and one row of tokens.

    Args:
        text: a mixer as in a comparison, `gru` or `mamba{states=8}`; `@flash` after it sets the form of attention.
    """

    def __init__(self, text: str, dim: int) -> None:
        name, at, form = text.partition("@")
        if not name.strip():
            raise SpecError(f"mixers: {text!r} has no mixer's name; `llmanac list mixer` shows them")
        if at and form not in ATTENTION_FORMS:
            raise SpecError(
                f"{text}: {form!r} is not one of {', '.join(ATTENTION_FORMS)}{nearest(form, ATTENTION_FORMS)}"
            )
        mixer = make_method("mixer", parse_arm(name).value)
        if registry.find("mixer", mixer.name).card.get("reads") == "source":
            raise SpecError(f"{name}: reads an encoder's output and is no mixer of a model by itself")
        block = {"name": "pre-norm", "mixer": mixer, "ffn": "none"}
        given = {"name": "transformer", "dim": dim, "layers": 1, "blocks": [block], "position": "none"}
        self.model: Any = make_method("lm", given).build(vocab_size=2)
        self.dim = dim
        with torch.no_grad():
            for parameter in self.model.parameters():  # the last product starts at zero, and zeros have no gradient
                parameter.add_(0.01)
        if at:
            self.model.attention_form = form

    def row(self, length: int) -> torch.Tensor:
        return torch.randn(1, length, self.dim, generator=torch.Generator().manual_seed(0))

    def __call__(self, x: torch.Tensor, state: Any = None) -> torch.Tensor:
        out: torch.Tensor = self.model(Batch(embeddings=x), state, OutputRequest(hidden=True)).hidden
        return out


def measure(text: str, length: int, dim: int = 64, *, timed: bool = True) -> dict[str, float]:
    """The costs of a mixer at a length; with `timed` also `forward`, `backward` and `decode` seconds (CPU time).

    Raises:
        SpecError: a mixer that is not known.
    """
    subject = Subject(text, dim)
    x, found = subject.row(length), {}
    wanted = [x, *subject.model.parameters()]

    def forward() -> Any:
        with torch.no_grad():
            return subject(x)

    def both() -> None:
        torch.autograd.grad(subject(x.requires_grad_()).sum(), wanted, allow_unused=True)

    def backward() -> Callable[[], Any]:
        loss = subject(x.requires_grad_()).sum()
        return lambda: torch.autograd.grad(loss, wanted, allow_unused=True)

    with one_thread():
        found["forward operations"], found["forward bytes"] = operations(forward), float(allocated(forward) or 0)
        found["backward operations"], found["training bytes"] = operations(backward()), float(allocated(both) or 0)
        if timed:
            found["forward seconds"] = seconds(lambda: forward)
            found["backward seconds"] = seconds(backward)
    return found | decoding(subject, x.detach(), timed)


def decoding(subject: Subject, x: torch.Tensor, timed: bool = True) -> dict[str, float]:
    """The costs of decoding the last token of x (1, s, d) after the others, and the bytes of the state."""
    token, state = x[:, -1:], subject.model.start(1)
    with one_thread(), torch.no_grad():  # under inference_mode attention would be one operation that is not counted
        subject(x[:, :-1], state)
        mark, counts = state.mark(), list(state.counts)

        def decode() -> None:
            state.rewind(mark, counts)
            subject(token, state)

        with Operations() as counted:
            subject(token, state)
        found = {"decode operations": counted.total, "state": float(state.nbytes)}
        found["decode bytes"] = float(allocated(decode) or 0)
        if timed:
            found["decode seconds"] = seconds(lambda: decode)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, or in a function that it decorates, torch computes on one thread, with the sums of any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(make: Callable[[], Callable[[], Any]]) -> float:
    """The least CPU time of a few calls of what `make` makes anew each time; short ones are repeated to 5 ms."""
    least = math.inf
    for _ in range(ROUNDS):
        taken, calls = 0.0, 0
        while taken < 0.005:
            run = make()
            start = time.process_time()
            run()
            taken += time.process_time() - start
            calls += 1
        least = min(least, taken / calls)
    return least


def mixers() -> list[str]:
    """Every mixer of the catalogue that a model can have alone, and the further forms of full attention."""
    names = [n for n, m in registry.methods("mixer").items() if m.card.get("reads") != "source"]
    same = {n for n in names if n in ("softmax", "sparse", "rnn-relu")}  # of these an alias is listed
    return [*(n for n in names if n not in same), f"{FULL}@flash", f"{FULL}@plain"]


def curves(
    names: Sequence[str],
    lengths: Sequence[int] = LENGTHS,
    dim: int = 64,
    report: Callable[[str], object] = lambda name: None,
) -> dict[str, dict[str, list[float]]]:
    """For each mixer and each cost its values over the lengths.

    Raises:
        SpecError: a mixer that is not known, or lengths that do not fit or need more memory than there is.
    """
    if len(lengths) < 2 or min(lengths) < 2 or list(lengths) != sorted(set(lengths)):
        raise SpecError("lengths: need at least two different lengths from 2 on, in ascending order")
    for name in names:
        Subject(name, dim)  # all names are checked before the first is measured
    for name in names:
        _check_memory(name, lengths[-1], dim)
    found: dict[str, dict[str, list[float]]] = {}
    with progress("complexity", total=len(names) * sum(lengths), unit="tokens") as bar:
        for name in names:
            report(name)
            rows = []
            for length in lengths:
                rows.append(measure(name, length, dim))
                bar.advance(length, mixer=name)
            found[name] = {cost: [row[cost] for row in rows] for cost in rows[0]}
    return found


def _check_memory(name: str, longest: int, dim: int) -> None:
    """Raises SpecError where a training step at the longest length would not fit, as estimated from two short ones."""
    less, more = (_training_bytes(name, length, dim) for length in PROBES)
    theory = theory_of(name)
    square = max(0, more - 2 * less) / 2 / PROBES[0] ** 2 if theory is not None and theory.memory == "s^2" else 0.0
    needed = square * longest**2 + (more / PROBES[1] - square * PROBES[1]) * longest
    if needed > (there := system_memory()[0]):
        raise SpecError(
            f"--longest: {name} needs about {needed / 1e9:,.1f} GB for a training step of {longest:,} tokens, and "
            f"{there / 1e9:,.1f} GB are available; give a smaller --longest or --dim, or leave the mixer out"
        )


def _training_bytes(name: str, length: int, dim: int) -> int:
    subject = Subject(name, dim)
    x = subject.row(length)
    with one_thread():
        return allocated(lambda: subject(x).sum().backward()) or 0


def slope(lengths: Sequence[float], values: Sequence[float]) -> float:
    """The power of the length that values grow with: the least-squares slope of their logs."""
    xs, ys = ([math.log(max(v, 1e-12)) for v in given] for given in (lengths, values))
    mean = sum(xs) / len(xs)
    return sum((x - mean) * y for x, y in zip(xs, ys, strict=True)) / sum((x - mean) ** 2 for x in xs)


def expected(name: str, lengths: Sequence[float]) -> dict[str, float]:
    """The slope that theory gives each cost over these lengths; empty for a mixer that it says nothing about."""
    theory = theory_of(name)
    if theory is None:
        return {}
    growth = (theory.work, theory.work, theory.memory, theory.memory, theory.decode, theory.decode, theory.state)
    return {cost: slope(lengths, [GROWTH[g](s) for s in lengths]) for cost, g in zip(COSTS, growth, strict=True)}


def theory_of(name: str) -> Theory | None:
    """Of a mixer as `Subject` takes it, whatever its fields."""
    mixer, _, form = name.partition("@")
    return THEORY.get(parse_arm(mixer).name + (f"@{form}" if form == "plain" else ""))


def faster_from(lengths: Sequence[int], full: Sequence[float], other: Sequence[float]) -> float | None:
    """The length from which `other` costs less than `full`, between measured ones by the lines through their logs.

    The first length where it always does, and None where it does not at the last.
    """
    gains = [math.log(a / b) for a, b in zip(full, other, strict=True)]
    if gains[-1] <= 0:
        return None
    last = max((i for i, gain in enumerate(gains) if gain <= 0), default=-1)
    if last < 0:
        return float(lengths[0])
    part = -gains[last] / (gains[last + 1] - gains[last])
    return float(lengths[last] * (lengths[last + 1] / lengths[last]) ** part)


def break_even(lengths: Sequence[int], found: Found) -> dict[str, dict[str, float | None]]:
    """For each mixer the lengths from which it takes 5% less time than full attention: training, forward, decoding."""

    def of(costs: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
        return {"training": training(costs), "forward": costs["forward seconds"], "decode": costs["decode seconds"]}

    full = {work: [(1 - MARGIN) * value for value in values] for work, values in of(found[FULL]).items()}
    return {
        name: {work: faster_from(lengths, full[work], values) for work, values in of(costs).items()}
        for name, costs in found.items()
        if name != FULL
    }


def training(costs: Mapping[str, Sequence[float]]) -> list[float]:
    """Seconds of a forward and a backward pass."""
    return [a + b for a, b in zip(costs["forward seconds"], costs["backward seconds"], strict=True)]


def chart(lengths: Sequence[int], found: Found, cost: str, label: str, about: str) -> Chart:
    """Curves of one cost over the length, both axes logarithmic; `about` says of what and where."""
    lines = [Line(name, list(zip(map(float, lengths), costs[cost], strict=True))) for name, costs in found.items()]
    return line_chart(lines, f"tokens ({about})", label, f"{label} over the length, {about}", log="xy")


def from_length(value: float | None, lengths: Sequence[int]) -> str:
    """A break-even length as text."""
    if value is None:
        return f"never, up to {lengths[-1]:,}"
    return f"below {lengths[0]:,}" if value <= lengths[0] else f"{value:,.0f}"


def comparison(lengths: Sequence[int], found: Found) -> tuple[Sequence[str], list[list[str]]]:
    """Heads and rows of the table of `break_even`."""
    even = break_even(lengths, found)
    rows = [[name, *(from_length(value, lengths) for value in row.values())] for name, row in even.items()]
    return ("mixer", "training", "forward", "decode"), rows
