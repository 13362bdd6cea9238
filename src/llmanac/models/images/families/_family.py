"""A family of image models as a table: the entries of `models/families/_table.py`, for configs with tables in them.

Names of parameters are given part by part (`PartNames`): each tower has the names of its own family below a prefix. A
tensor of theirs may have further axes of size 1 ((1, 1, D) for a class token), and one of ours may be several of
theirs, one below the other (`joined`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.spec import diff, dump, make_method
from llmanac.models.families import FAMILIES as LANGUAGE
from llmanac.models.families import family as language_family
from llmanac.models.families._config import Config, Misfit, Names, WeightSource
from llmanac.models.families._table import ConfigEntry, Data, at, put
from llmanac.models.lm.transformer import resolved

GENERAL = frozenset(
    """
    initializer_factor initializer_range id2label label2id problem_type attention_dropout projection_dim num_labels
    logit_scale_init_value hidden_dropout_prob attention_probs_dropout_prob encoder_stride tie_word_embeddings
    """.split()  # noqa: SIM905
)
TRAINED = ("encoder", "language")  # which parts are trained is no matter of a file


@dataclass(frozen=True)
class PartNames:
    """Parameters of ours below a prefix and their names: `theirs` are prefixes, the first one is written.

    `within`: what comes before our names where `names` knows them: "model.layers." for a list of modules.
    """

    ours: str
    theirs: tuple[str, ...]
    names: Names = field(default_factory=Names)
    within: str = ""


@dataclass(frozen=True)
class Inside(ConfigEntry):
    """A table of the config that describes a part of the Spec.

    Attributes:
        entries: of the part; above: of the Spec that has the part.
        writes: further keys with their values; neutral: keys with no effect.
    """

    name: str
    path: str
    entries: tuple[ConfigEntry, ...]
    above: tuple[ConfigEntry, ...] = ()
    writes: Mapping[str, Any] = field(default_factory=dict)
    neutral: frozenset[str] = frozenset()

    def read(self, config: Config, data: Data) -> None:
        own = Config(_table(config, self.name), f"{config.path}: {self.name}", self.neutral | GENERAL)
        own.get("model_type")
        for entry in self.entries:
            entry.read(own, data[self.path])
        for entry in self.above:
            entry.read(own, data)
        own.finish()

    def write(self, data: Data) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for entry in self.entries:
            written |= entry.write(data[self.path])
        for entry in self.above:
            written |= entry.write(data)
        return {self.name: {**written, **self.writes}}


@dataclass(frozen=True)
class LanguagePart(ConfigEntry):
    """A table of the config that is a language model of one of its own families.

    Attributes:
        kinds: model types that may be there, and the family that reads them.
        dropped: keys that the model around it settles.
    """

    name: str = "text_config"
    path: str = "text"
    kinds: Mapping[str, str] = field(default_factory=lambda: {name: name for name in LANGUAGE})
    default: str = "llama"
    dropped: frozenset[str] = frozenset()

    def read(self, config: Config, data: Data) -> None:
        table = {key: value for key, value in _table(config, self.name).items() if key not in self.dropped}
        kind = table.get("model_type", self.default)
        if kind not in self.kinds:
            raise CheckpointError(
                f"{config.path}: {self.name}.model_type is {shown(kind)}, which is not read here "
                f"(known: {', '.join(self.kinds)})"
            )
        chosen = language_family(self.kinds[kind])
        own = Config(table, f"{config.path}: {self.name}", chosen.neutral | GENERAL)
        own.get("model_type")
        spec, vocab_size = chosen.to_spec(own)
        own.finish()
        put(data, self.path, dump(spec))
        data["vocab_size"], data["language"] = vocab_size, self.kinds[kind]

    def write(self, data: Data) -> dict[str, Any]:
        spec = make_method("lm", at(data, self.path))
        for kind, name in self.kinds.items():
            try:
                written = language_family(name).to_config(spec, data["vocab_size"])
            except Misfit:
                continue
            data["language"] = name
            return {self.name: written | {"model_type": kind}}
        raise Misfit(f"{self.path}: no family of {', '.join(self.kinds)} holds this language model")


class LlamaAbove(ConfigEntry):
    """The language model where its keys are at the top: those of Llama. It is read alone."""

    def read(self, config: Config, data: Data) -> None:
        for entry in language_family("llama").entries:
            entry.read(config, data["text"])
        data["vocab_size"] = data["text"].pop("vocab_size")


@dataclass(frozen=True)
class LabelCount(ConfigEntry):
    """The number of labels, which their config lists, as the Spec's `field`; 0 for the class `bare`, without a head."""

    field: str
    bare: str
    headed: str

    def read(self, config: Config, data: Data) -> None:
        labels = config.get("id2label", {})
        if not isinstance(labels, dict) or len(labels) > 1 << 20:
            raise CheckpointError(f"{config.path}: id2label is {shown(labels)}, expected a table of labels")
        data[self.field] = 0 if config.get("architectures") == [self.bare] else len(labels) or 2

    def write(self, data: Data) -> dict[str, Any]:
        names = {str(i): f"LABEL_{i}" for i in range(data[self.field])}
        return {
            "id2label": names,
            "label2id": {v: int(k) for k, v in names.items()},
            "architectures": [self.headed if names else self.bare],
        }


def _table(config: Config, key: str) -> dict[str, Any]:
    found = config.get(key, {})
    if not isinstance(found, dict):
        raise CheckpointError(f"{config.path}: {key} is {shown(found)}, expected a table")
    return found


@dataclass(frozen=True)
class ImageFamily:
    """See the module.

    Attributes:
        architecture, model_type: as config.json names them, the latter by the file's name, which `family` adds.
        spec: what all of its models share.
        parts: `(language family or "") -> the names of each part`.
        joined: ours -> the names of theirs that it consists of, along the first axis.
        further: `(data)` changes what the entries read, where fields depend on each other.
        axes: endings of their names -> axes of size 1 that come before ours.
        writes: further keys with their values; ignored: endings of names that are no parameters.
        absent: parts of our names that their files do not have; they begin as `begin` and `settle` make them.
    """

    architecture: str
    spec: Any
    entries: tuple[ConfigEntry, ...]
    parts: Callable[[str], tuple[PartNames, ...]]
    model_type: str = ""
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    further: Callable[[Data], None] | None = None
    writes: Mapping[str, Any] = field(default_factory=dict)
    neutral: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = (".position_ids", ".rotary_emb.inv_freq")
    absent: tuple[str, ...] = ()

    def to_spec(self, table: Mapping[str, Any], path: object) -> tuple[Any, int, tuple[PartNames, ...]]:
        """Their config.json -> (Spec, vocabulary size or number of classes, names of the parts).

        Raises:
            CheckpointError: a value that cannot be honoured; the message names file and key.
        """
        config = Config(table, path, self.neutral | GENERAL)
        data = dump(self.spec) | {"vocab_size": 0, "language": ""}
        for entry in self.entries:
            entry.read(config, data)
        if self.further is not None:
            self.further(data)
        config.finish()
        vocab_size, language = data.pop("vocab_size"), data.pop("language")
        return make_method("multimodal", data), vocab_size, self.parts(language)

    def to_config(self, spec: Any, vocab_size: int) -> tuple[dict[str, Any], tuple[PartNames, ...]]:
        """Our Spec -> their config.json, which is read again, and the names of the parts. Raises Misfit."""
        if type(spec) is not type(self.spec):
            raise Misfit(f"the model is {spec.name}, {self.model_type}'s is {self.spec.name}")
        data = {**dump(_whole(spec)), "vocab_size": vocab_size, "language": ""}
        written: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type}
        for entry in self.entries:
            written |= entry.write(data)
        written |= self.writes
        try:
            again = self.to_spec(written, self.model_type)[0]
        except SpecError as error:
            raise Misfit(str(error)) from None
        for path, (ours, theirs) in diff(_whole(spec), _whole(again)).items():
            if path in TRAINED:
                continue
            raise Misfit(f"{path} is {shown(ours)}, {self.model_type}'s is {shown(theirs)}")
        return written, self.parts(data["language"])

    def place(
        self, shapes: Mapping[str, tuple[int, ...]], parts: tuple[PartNames, ...], has: Any
    ) -> dict[str, WeightSource]:
        """Where each of our parameters is in files; `has(name)` tells which of several prefixes they use."""
        found: dict[str, WeightSource] = {}
        for part in parts:
            own = {n.removeprefix(part.ours): shape for n, shape in shapes.items() if n.startswith(part.ours)}
            own = {part.within + name: shape for name, shape in own.items() if part.ours + name not in found}
            sources = part.names.place(own)
            best = max(part.theirs, key=lambda prefix: sum(has(prefix + s.name) for s in sources.values()))
            for name, source in sources.items():
                found[part.ours + name.removeprefix(part.within)] = replace(source, name=best + source.name)
        return found


def _whole(spec: Any) -> Any:
    """The same with the language model's open sizes filled in, and those of the image encoder."""
    changes: dict[str, Any] = {}
    for name in ("text", "vision"):
        part = getattr(spec, name)
        if part is not None and part.blocks:
            changes[name] = resolved(part) if name == "text" else _vision(part)
    return replace(spec, **changes) if changes else _vision(spec) if spec.blocks else spec


def _vision(spec: Any) -> Any:
    blocks = tuple(block.resolved(spec.dim) for block in spec.blocks)
    found: dict[str, Any] = {"blocks": blocks[:1] if len(set(blocks)) == 1 else blocks}
    if spec.position is not None:
        found["position"] = spec.position.resolved(spec.tokens)
    return replace(spec, **found)
