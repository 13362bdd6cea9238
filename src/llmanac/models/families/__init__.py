"""Families: checkpoints of other projects, their config.json as our Spec and their parameter names as ours.

A family is a file with a `FAMILY` table (`_table.py`), and the file's name is its model_type; `FAMILIES` lists them in
the order in which `save_pretrained` tries them. A Spec is the authority on what a model is: what a config says and no
Spec field can hold is refused by name, never dropped, and what a config cannot say of a Spec is a Misfit.
"""

import importlib
import re
from dataclasses import replace

from llmanac.core.errors import CheckpointError, nearest, shown
from llmanac.models.families._config import PEER, TABLES, Config, Misfit, Names, WeightSource, arrange
from llmanac.models.families._table import Family

__all__ = [
    "AXES", "FAMILIES", "OWN_FIELDS", "PRESENT", "Config", "Family", "Misfit", "Names", "WeightSource", "arrange",
    "family",
]  # fmt: skip

FAMILIES = (
    "llama", "gpt2", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "phi3", "gemma", "smollm3", "mamba", "gemma2",
    "gemma3_text", "glm4", "gpt_oss", "deepseek_v3", "gpt_neox", "olmo2", "bloom", "mpt", "mamba2", "minimax", "opt",
    "granite", "starcoder2", "stablelm", "phi", "cohere", "cohere2", "olmo", "olmo3", "nemotron", "ernie4_5", "glm",
    "gpt_neo", "gptj", "gpt_bigcode", "exaone4", "falcon", "qwen2_moe", "granitemoe", "hunyuan_v1_dense",
    "olmoe", "glm4_moe", "lfm2",
    "bert", "roberta", "modernbert", "t5", "distilbert", "xlm-roberta", "mpnet", "electra", "deberta-v2", "nomic_bert",
    "mt5", "bart", "mbart", "marian", "pegasus",
)  # fmt: skip
AXES, PRESENT, OWN_FIELDS = TABLES["axes"], TABLES["present"], TABLES["own_fields"]


def family(name: str, where: str = "model_type") -> Family:
    """The table of a family. Raises CheckpointError for one that is not known."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        another = re.sub(r"\d", "", name) in {re.sub(r"\d", "", one) for one in FAMILIES}  # a later one: mamba3
        if another or name in PEER["types"].split():  # a model by that name, and no misspelt one
            raise CheckpointError(f"{where}: {name[:60]} is not supported (read: {known})")
        raise CheckpointError(
            f"{where}: {shown(name)} is not a family that can be read{nearest(name, FAMILIES)} ({known})"
        )
    found: Family = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").FAMILY
    return replace(found, model_type=name)
