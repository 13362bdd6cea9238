"""A family as a table: which key of their config.json is which field of our Spec, read and written by the same lines.

A `Family` has a Spec that all of its models share, and entries. Reading starts from that Spec as plain data and lets
each entry put its values in; writing lets each entry take them out. Whether a model fits is not listed anywhere: its
config is written, read again, and what differs is named.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.spec import diff, dump, make_method
from llmanac.models.families._config import MISSING, Config, Misfit, Names
from llmanac.models.families._labels import Labels
from llmanac.models.lm.transformer import resolved

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu_new": "gelu-tanh",
    "relu": "relu",
}
UNDROPPED = {"attention_dropout": 0.0}
MOST_LAYERS = 10_000
Data = dict[str, Any]


class ConfigEntry:
    """A line of a family's table: `read` puts values of a config into a Spec's data, `write` is its inverse.

    It writes nothing where other lines say it all.
    """

    def read(self, config: Config, data: Data) -> None:
        raise NotImplementedError

    def write(self, data: Data) -> dict[str, Any]:
        return {}

    def fields(self) -> dict[str, str]:
        """The paths of the Spec that it reads -> the key."""
        return {}


@dataclass(frozen=True)
class Key(ConfigEntry):
    """One key that is one field of the Spec, or the same value of several.

    Attributes:
        name: theirs; path: ours, and others that hold the same value in `paths`.
        kind: int, float, bool, or a table of their values and ours.
        default: where the key is absent; without one the key is required, and None leaves the field open.
        unset: the value of theirs that leaves the field open, where there is one.
        aliases: other spellings that are read too.
    """

    name: str
    path: str
    kind: Any = int
    default: Any = MISSING
    unset: Any = MISSING
    aliases: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def read(self, config: Config, data: Data) -> None:
        name = next((key for key in (self.name, *self.aliases) if config.data.get(key) is not None), self.name)
        value = self._value(config, name)
        for other in (self.name, *self.aliases):  # said twice, it must be the same
            if other != name:
                config.expect(other, config.data.get(name))
        for path in (self.path, *self.paths):
            put(data, path, value)

    def _value(self, config: Config, name: str) -> Any:
        if self.unset is not MISSING and name in config.data and config.data[name] == self.unset:
            config.get(name)
            return None
        if self.default is None and config.get(name) is None:
            return None
        default = None if self.default is MISSING else self.default
        if self.kind in (int, float):
            return config.number(name, self.kind, default)
        if self.kind is bool:
            return config.flag(name, bool(default))
        if set(self.kind) <= {True, False}:
            if (value := config.flag(name, bool(default))) not in self.kind:
                config.expect(name, *self.kind)
            return self.kind[value]
        return config.choose(name, self.kind, default)

    def write(self, data: Data) -> dict[str, Any]:
        value = at(data, self.path)
        if isinstance(self.kind, Mapping):
            value = next((theirs for theirs, ours in self.kind.items() if ours == value), None)
        elif value is None and self.unset is not MISSING:
            value = self.unset
        return {self.name: value}

    def fields(self) -> dict[str, str]:
        return dict.fromkeys((self.path, *self.paths), self.name)


@dataclass(frozen=True)
class Fixed(ConfigEntry):
    """A field that no key of the config holds; `value` computes it from the Spec's data."""

    path: str
    value: Callable[[Data], Any]

    def read(self, config: Config, data: Data) -> None:
        put(data, self.path, self.value(data))


@dataclass(frozen=True)
class Only(ConfigEntry):
    """A key that must have one of these values; the first is written, None being left out.

    `absent` is what a config without the key means, by default the first.
    """

    name: str
    allowed: tuple[Any, ...]
    absent: Any = MISSING

    def read(self, config: Config, data: Data) -> None:
        if self.absent is not MISSING and config.get(self.name) is None and self.absent not in self.allowed:
            raise CheckpointError(f"{config.path}: {self.name} is not set; only {self.allowed[0]!r} is supported")
        config.expect(self.name, *self.allowed)

    def write(self, data: Data) -> dict[str, Any]:
        return {} if self.allowed[0] is None else {self.name: self.allowed[0]}


@dataclass(frozen=True)
class Equal(ConfigEntry):
    """A key that says again what the field at `path` holds, and must agree with it where it is there."""

    name: str
    path: str

    def read(self, config: Config, data: Data) -> None:
        config.expect(self.name, at(data, self.path))

    def write(self, data: Data) -> dict[str, Any]:
        return {self.name: at(data, self.path)}


@dataclass(frozen=True)
class Layered(ConfigEntry):
    """A list with a value a layer, which sets one field of each block.

    Attributes:
        name: theirs; path: ours in a block.
        values: `(config, data, layers) -> a list with a value of ours a layer`.
        written: `(values of ours) -> keys of theirs`.
    """

    name: str
    path: str
    values: Callable[[Config, Data, int], list[Any]]
    written: Callable[[list[Any]], dict[str, Any]]

    def read(self, config: Config, data: Data) -> None:
        if data["layers"] > MOST_LAYERS:
            raise CheckpointError(f"{config.path}: {self.name}: lists for {data['layers']:,} layers are not read")
        values = self.values(config, data, data["layers"])
        if len(values) != data["layers"]:
            raise CheckpointError(
                f"{config.path}: {self.name} lists {len(values):,} layers, the model has {data['layers']:,}"
            )
        old = data["blocks"]
        blocks = [deepcopy(old[i % len(old)]) for i in range(len(values))]
        for block, value in zip(blocks, values, strict=True):
            put(block, self.path, value)
        data["blocks"] = blocks[: period(blocks)]

    def write(self, data: Data) -> dict[str, Any]:
        blocks = data["blocks"]
        found = [at(block, self.path) for block in blocks]
        return self.written([found[i % len(found)] for i in range(data["layers"])])

    def fields(self) -> dict[str, str]:
        return {f"blocks.*.{self.path}": self.name}


def with_defaults(entries: Sequence[ConfigEntry], **defaults: int) -> tuple[ConfigEntry, ...]:
    """The entries, of which the keys that are named have these values where a config does not say."""
    return tuple(
        replace(one, default=defaults[one.name]) if isinstance(one, Key) and one.name in defaults else one
        for one in entries
    )


def stack(
    mixer: Data | None = None,
    ffn: Data | None = None,
    block: Data | None = None,
    position: Data | str = "rope",
    norm: Data | str = "rmsnorm",
    kind: str = "transformer",
    **fields: Any,
) -> Any:
    """The Spec of a model of one kind of block from its parts as plain data; what is not given is Llama's."""
    own = {"name": "pre-norm", **(block or {}), "mixer": {"name": "softmax", **(mixer or {})}}
    own["ffn"] = {"name": "gated", **(ffn or {})}
    return make_method("lm", {"name": kind, "blocks": [own], "position": position, "norm": norm, **fields})


def period(values: Sequence[Any]) -> int:
    """The length of the shortest pattern that repeats to all of `values`."""
    total = len(values)
    for size in range(1, total + 1):
        if total % size == 0 and all(values[i] == values[i % size] for i in range(total)):
            return size
    return total


def at(data: Any, path: str) -> Any:
    """The value at a dotted path of a Spec's data, of the first item for `*`; None where there is none."""
    for step in path.split("."):
        if step == "*" and isinstance(data, list):
            data = data[0] if data else None
        elif isinstance(data, Mapping):
            data = data.get(step)
        else:
            return None
    return data


def put(data: Any, path: str, value: Any) -> None:
    """Set the value at a dotted path of a Spec's data, of every item for `*`; None leaves the field open."""
    step, _, rest = path.partition(".")
    if step == "*":
        for item in data:
            put(item, rest, value)
    elif rest:
        put(data.setdefault(step, {}), rest, value)
    elif value is None:
        data.pop(step, None)
    else:
        data[step] = value


@dataclass(frozen=True)
class Family:
    """See the module.

    Attributes:
        architecture, model_type: as config.json names them; the latter is the file's name, which `family` adds.
        spec: what all of its models share; its sizes are replaced by the entries.
        entries: in the order in which they are read.
        names: layouts of the files, the one that is written first.
        writes: further keys with their values; neutral: keys with no effect on what is computed.
        ignored: endings of names in the files that are no parameters; prefix: of names, which files may leave out.
        biases: their names of the head's bias where the head is the embedding, and where it is a matrix of its own.
        further: the key that counts layers after the model's own, which are not read (multi-token prediction).
        labels: how its classifiers are stored, None where there are none.
    """

    architecture: str
    spec: Any
    entries: tuple[ConfigEntry, ...]
    model_type: str = ""
    names: tuple[Names, ...] = (Names(),)
    writes: Mapping[str, Any] = field(default_factory=lambda: UNDROPPED)
    neutral: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = (".rotary_emb.inv_freq",)
    prefix: str = "model."
    biases: tuple[str, str] | None = None
    further: str = ""
    labels: Labels | None = field(default_factory=Labels)

    def config(self, data: Mapping[str, Any], path: object) -> Config:
        """A config of this family, to be read."""
        return Config(data, path, self.neutral, self.model_type)

    def stored(self, spec: Any) -> tuple[tuple[Names, ...], tuple[str, ...]]:
        """`(layouts, endings of names that are no parameters)` of a model's files."""
        if spec.head is not None and spec.head.labels and self.labels is not None:
            return self.labels.stored(self.names, self.ignored, spec.head)
        if self.biases is None or spec.tied or spec.head is None:
            return self.names, self.ignored
        tied, own = self.biases  # an untied head adds its own bias, and the files hold the other one too
        names = tuple(replace(layout, table={**layout.table, "lm_head.bias": own}) for layout in self.names)
        return names, tuple(tied if ending == own else ending for ending in self.ignored)

    def to_spec(self, config: Config) -> tuple[Any, int]:
        """Their config.json -> (Spec, vocabulary size).

        Raises:
            CheckpointError: a value that cannot be honoured; the message names file and key.
            SpecError: values that do not fit each other.
        """
        data = dump(self.spec)
        for entry in self.entries:
            entry.read(config, data)
        if self.labels is not None and "Classification" in str(config.get("architectures", "")):
            self.labels.read(config, data)
        vocab_size = data.pop("vocab_size")
        return make_method("lm", data), vocab_size

    def to_config(self, spec: Any, vocab_size: int) -> dict[str, Any]:
        """Our Spec -> their config.json, which is read again. Raises Misfit that names what comes back different."""
        if type(spec) is not type(self.spec):
            raise Misfit(f"the model is {spec.name}, {self.model_type}'s is {self.spec.name}")
        spec = canonical(spec)
        data = {**dump(spec), "vocab_size": vocab_size}
        written: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type}
        for entry in self.entries:
            written |= entry.write(data)
        written |= self.writes
        written |= {} if self.labels is None else self.labels.write(data, self.architecture)
        problem: Exception | None = None
        try:
            again = canonical(self.to_spec(self.config(written, self.model_type))[0])
        except (CheckpointError, SpecError) as error:  # the reason is a method that this family does not have
            again, problem = self.spec, error
        differences = diff(spec, again)
        methods = {path: pair for path, pair in differences.items() if path.endswith("name")}
        for path, (ours, theirs) in (methods or ({} if problem else differences)).items():
            raise Misfit(f"{path} is {_said(ours)}, {self.model_type}'s is {_said(theirs)}")
        if problem is not None:
            raise Misfit(str(problem))
        return written

    @property
    def fields(self) -> dict[str, str]:
        """Their names of our fields by the last part of the path, and of what AXES and PRESENT name."""
        paths = {path: name for entry in self.entries for path, name in entry.fields().items()}
        own = {path.rpartition(".")[2]: name for path, name in paths.items()}
        for what, path in NAMED.items():
            own |= {what: paths[path]} if path in paths else {}
        dim, heads = own["dim"], own.get("heads")
        if heads is not None:
            size = own.get("head_dim")
            kv_heads = own.get("kv_heads", heads)
            own["queries"] = f"{heads} x {size}" if size else dim
            own["keys"] = f"{kv_heads} x {size}" if size else f"{kv_heads} and {dim}" if kv_heads != heads else dim
            own["heads"] = heads if size else f"{heads} and {dim}"
            own["kv_heads"] = f"{kv_heads} and {heads}"
            own.setdefault("rotary_fraction", size or dim)
        return own


NAMED = {
    "vocabulary": "vocab_size",
    "attention biases": "blocks.*.mixer.biases",
    "feed-forward biases": "blocks.*.ffn.biases",
    "inner": "blocks.*.mixer.expand",
}


def _said(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else shown(value)


def canonical(spec: Any) -> Any:
    """The same model with all sizes filled in and the shortest pattern of blocks."""
    spec = resolved(spec)
    stacks = {name: getattr(spec, name) for name in ("blocks", "encoder") if getattr(spec, name)}
    return replace(spec, **{name: blocks[: period(blocks)] for name, blocks in stacks.items()})
