"""A GGUF file as a family's config and tensors: same names, same order of rows, same numbers. It needs no torch."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.kernels.gguf import PackedTensor, opened
from llmanac.kernels.gguf.blocks import KINDS, Array
from llmanac.models.folder import TOKENS, TRAINED
from llmanac.models.gguf.architectures import (
    BOUNDS,
    FACTORS,
    FREQUENCIES,
    LISTED,
    NEEDED,
    OTHERS,
    Config,
    architecture,
    halved,
)  # fmt: skip
from llmanac.models.scaling import Scaling

EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
THETA = 10_000.0  # where the file does not say
# tokens that end a turn, by the name that llama.cpp goes by where the file does not say which one does
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")


class PackedFile:
    """The tensors of a GGUF file under a family's names.

    Attributes:
        config: what the family's config.json would say.
        keys: of the file, without the architecture's name -> those of config.json; fields: the inverse, names in full.
        values: of the architecture's keys that are read, without its name.

    Raises:
        CheckpointError: an architecture that is not known, or a key that is missing, wrong or not supported.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path
        self.file = opened(path)
        name, self.table = architecture(self.file.metadata, path)
        self.keys = self.table.all_keys
        self.fields = {theirs: f"{name}.{key}" for key, theirs in self.keys.items()}
        self.values = self._values(name)
        self.config = self._config(name)
        self._own: dict[str, str] = {}
        for own in self.file.names:
            if own not in (FREQUENCIES, *FACTORS.values()):
                self._own[self.table.theirs(own) or f"tensor {own}"] = own
        self.unused = set(self._own)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by the family's names."""
        return {theirs: self.file.shape(own) for theirs, own in self._own.items()}

    def vector(self, name: str) -> Array:
        """A tensor's numbers in float32; the weights of norms are those that the family stores."""
        numbers = self.tensor(name).float32()
        if name.endswith("norm.weight"):
            numbers -= np.float32(self.table.shift)
        return numbers

    def tensor(self, name: str) -> PackedTensor:
        """The tensor of a family's name, its blocks as they are, its rows in the family's order.

        The weights of norms are as the file has them: with 1 added in `gemma` files.
        """
        self.unused.discard(name)
        tensor = self.file.tensor(self._own[name])
        heads = self.table.heads(name, self.config)
        if heads is None:
            return tensor
        if len(tensor.shape) == 1 and KINDS[tensor.kind].size > 1:
            raise self._error(self._own[name], f"is one row of {tensor.kind}, whose heads cannot be reordered")
        rows = halved(tensor.data.reshape(tensor.shape[0], -1), heads)  # of a bias, a number each
        return PackedTensor(tensor.kind, tensor.shape, rows.reshape(tensor.data.shape))

    def _error(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.folder}: {key} {problem}")

    def _values(self, name: str) -> dict[str, Any]:
        """The architecture's keys that are read, without its name. Raises CheckpointError for one out of `BOUNDS`."""
        found: dict[str, Any] = {}
        for full, value in self.file.metadata.items():
            key = full.removeprefix(f"{name}.")
            if key == full or not (key in self.keys or key in OTHERS):
                continue
            kind, least, most = BOUNDS[key]
            least = 0 if key in self.table.none else least
            one: Any = value
            if isinstance(value, np.ndarray) and key in LISTED:
                same = len(value) == self.file.metadata.get(f"{name}.block_count") and (value == value[:1]).all()
                one = value[0].item() if same else None
            if type(one) is not kind or not least <= one <= most:
                expected = EXPECTED[kind] + (f" from {least:,} to {most:,}" if kind in (int, float) else "")
                layers = ", the same for all layers" if isinstance(value, np.ndarray) else ""
                raise self._error(full, f"is {shown(value)}, expected {expected}{layers}")
            # the file has float32: 1e-6 rather than 9.999999974752427e-07
            found[key] = float(str(np.float32(one))) if kind is float else one
        return found

    def _value(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def _config(self, name: str) -> Config:
        metadata, table, values = self.file.metadata, self.table, self.values
        for key in (*NEEDED, table.eps[0]):
            if key not in values:
                raise self._error(f"{name}.{key}", "is missing")
        for full, value in metadata.items():
            key = full.removeprefix(f"{name}.")
            if key == full or key in values or (key == "attention.causal" and value is True):
                continue
            if key in NEVER or isinstance(value, (np.ndarray, list)) or not _neutral(value):
                raise self._error(full, f"is {shown(value)}, which is not supported; it may change what is computed")
        config: Config = {theirs: values[key] or None for key, theirs in self.keys.items() if key in values}
        config["model_type"] = table.family
        if config["num_hidden_layers"] > len(self.file.names):
            count = f"{config['num_hidden_layers']:,}, but the file has {len(self.file.names):,} tensors"
            raise self._error(f"{name}.block_count", f"is {count}; each layer has some")
        if "token_embd.weight" not in self.file:
            raise self._error("token_embd.weight", "is missing")
        size = config["vocab_size"] = self.file.shape("token_embd.weight")[0]
        if self._value("vocab_size", size) != size:
            found = f"is {values['vocab_size']:,}, but token_embd.weight has {size:,} rows"
            raise self._error(f"{name}.vocab_size", found)
        config["tie_word_embeddings"] = "output.weight" not in self.file
        config |= {key: f"blk.0.{tensor}.bias" in self.file for key, tensor in table.biases.items()}
        heads = config["num_attention_heads"]
        if heads % config.setdefault("num_key_value_heads", heads):
            found = f"is {config['num_key_value_heads']:,}, which does not divide the {heads:,} of head_count"
            raise self._error(f"{name}.attention.head_count_kv", found)
        config.setdefault("head_dim", config["hidden_size"] // heads)
        config.setdefault("rope_theta", THETA)
        config |= table.more(config)
        self._positions(name, config)
        return config | self._tokens(size)

    def _positions(self, name: str, config: Config) -> None:
        size = config["head_dim"]
        sized = f"a head has {size:,} numbers (attention.key_length, or the width over the heads)"
        turned = self._value("rope.dimension_count", size)
        if turned > size or (turned < size and not self.table.partial):
            raise self._error(f"{name}.rope.dimension_count", f"is {turned:,}, but {sized}")
        if turned % 2:
            raise self._error(f"{name}.rope.dimension_count", f"is {turned:,}, which is odd; {sized}")
        if self.table.partial:
            config["partial_rotary_factor"] = turned / size
        if (found := self._value("attention.value_length", size)) != size:
            raise self._error(f"{name}.attention.value_length", f"is {found:,}, but {sized}; not supported")
        if (scaling := self._scaling(name, turned, config)) is None:
            return
        if scaling["rope_type"] not in self.table.scalings:
            key = FREQUENCIES if scaling["rope_type"] == "llama3" else f"{name}.rope.scaling.type"
            raise self._error(key, f"asks for {shown(scaling['rope_type'])}, which {name} files cannot have")
        config["rope_scaling"] = scaling
        if TRAINED in scaling and self.table.family == "phi3":  # which has it outside of the table
            config[TRAINED] = scaling[TRAINED]

    def _scaling(self, name: str, turned: int, config: Config) -> Config | None:
        """What the file does to the frequencies of rotation, as llama.cpp reads it; None for nothing."""
        longest, rope = config["max_position_embeddings"], f"{name}.rope."
        kind = self._value("rope.scaling.type", "linear")
        older = self._value("rope.scale_linear", None)
        factor = self._value("rope.scaling.factor", older)
        if factor is None and kind == "yarn":
            raise self._error(f"{rope}scaling.factor", "is missing; yarn needs it")
        factor = factor or 1.0
        if factor < 1:
            raise self._error(f"{rope}scaling.factor", f"is {factor:g}, expected at least 1")
        attention = self._value("rope.scaling.attn_factor", 1.0)
        trained = self._value("rope.scaling.original_context_length", longest)
        own = {theirs: name for theirs, name in FACTORS.items() if kind == "longrope" or name in self.file}
        if (own or FREQUENCIES in self.file) and (factor != 1 or kind == "yarn"):
            raise self._error(f"{rope}scaling", "asks for a further scaling beside the file's factors; not supported")
        table: Config = {"rope_type": kind, "factor": factor}
        if FREQUENCIES in self.file:
            table = self._llama3(turned, config["rope_theta"])
        elif own:
            table = {theirs: self._factors(name, turned // 2) for theirs, name in own.items()}
            table |= {"rope_type": "longrope", "factor": max(1.0, longest / trained)}
        elif kind == "none" and factor != 1 and self.table.family in SCALED_WINDOWS:
            raise self._error(f"{rope}scaling.factor", "is not 1 beside the type none; llama.cpp applies it to windows")
        elif kind == "none" or (kind == "linear" and factor == 1):
            table = {}
        scaled = table.get("rope_type") in ("yarn", "longrope")
        if attention != 1 and (not scaled or "rope.freq_base_swa" in self.table.keys):
            key = f"{rope}scaling.attn_factor"
            raise self._error(key, f"is {attention:g}; without yarn or longrope, or with two rotations, only 1 is read")
        if not scaled:
            return table or None
        lists = [tuple(table.get(theirs, ())) for theirs in FACTORS]
        try:
            formula = Scaling(
                type=table["rope_type"], factor=table["factor"], original_length=trained, short_factors=lists[0],
                long_factors=lists[1],
            ).amplitude  # fmt: skip
        except SpecError as error:
            raise self._error(f"{rope}scaling", f"gives a wrong scaling: {error}") from None
        attention *= formula if kind == "yarn" else 1.0
        if not math.isclose(attention, formula, rel_tol=1e-6):
            table["attention_factor"] = attention
        return {**table, TRAINED: trained}

    def _factors(self, name: str, pairs: int) -> list[float]:
        """A list of divisors, one for each pair of a head that rotates."""
        found = self.file.tensor(name).float32() if name in self.file else None
        if found is None or found.shape != (pairs,) or not (np.isfinite(found) & (found > 0)).all():
            raise self._error(name, f"is missing or wrong, expected {pairs} numbers above 0")
        return [float(str(number)) for number in found]

    def _llama3(self, turned: int, theta: float) -> Config:
        """Llama 3's scaling, of which the file only has the resulting divisors."""
        found = self.file.tensor(FREQUENCIES).float32()
        factor = float(found.max()) if found.shape == (turned // 2,) else math.nan
        if factor >= 1 and np.allclose(divisors(Scaling(type="llama3", factor=factor), turned, theta), found, 1e-3):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }  # fmt: skip
        raise self._error(FREQUENCIES, "is no scaling as Llama 3 has it (of 8,192 tokens by one factor); not supported")

    def _tokens(self, size: int) -> Config:
        """The ids that a generation_config.json would hold."""
        tokens: Any = self.file.metadata.get("tokenizer.ggml.tokens")
        if tokens is not None and (not isinstance(tokens, list) or len(tokens) != size):
            found = f"has {len(tokens):,}" if isinstance(tokens, list) else f"is {shown(tokens)}"
            raise self._error(
                "tokenizer.ggml.tokens", f"{found}, expected {size:,} texts, as many as token_embd.weight has"
            )
        ids = {}
        for key, id in self.file.metadata.items():
            if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
                if type(id) is not int or not 0 <= id < size:
                    raise self._error(key, f"is {shown(id)}, expected the id of a token below {size:,}")
                ids[key.removeprefix("tokenizer.ggml.").removesuffix("_token_id")] = id
        roles = zip(TOKENS, ("bos", "eos", "padding"), strict=True)
        config: Config = {token: ids[role] for token, role in roles if role in ids}
        ends = [ids[role] for role in ("eos", "eot", "eom") if role in ids]
        ends = list(dict.fromkeys(ends + [tokens.index(text) for text in ENDS if tokens and text in tokens]))
        return config | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})


SCALED_WINDOWS = ("gemma2", "gemma3_text")  # whose windows llama.cpp scales whatever the type says
NEVER = ("attention.causal", "rope.freq_base_swa")  # keys that no value but the usual one leaves without effect


def divisors(scaling: Scaling, turned: int, theta: float) -> Array:
    """(turned / 2,): what a scaling divides the frequencies of rotation by, where it is the same for all lengths."""
    plain = theta ** (-np.arange(0, turned, 2, dtype=np.float64) / turned)
    found: Array = plain / scaling.apply(plain, theta)
    return found


def _neutral(value: Any) -> bool:
    """Whether a key that is not known says that something is not used: no, 0, no text, or a factor of 1."""
    return value in (0, "") or (type(value) is float and value == 1.0)
