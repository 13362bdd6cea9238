"""GLM-4-9B and GLM-Edge: GLM-4's form without the norms after each part. GLM-4 Team 2024, arXiv:2406.12793."""

from dataclasses import replace

from llmanac.models.families._config import Names
from llmanac.models.families._table import stack
from llmanac.models.families.glm4 import FAMILY as GLM4

FAMILY = replace(
    GLM4,
    architecture="GlmForCausalLM",
    spec=stack(position={"name": "rope", "layout": "pairs"}),
    names=(Names(table={("mlp.gate_proj", "mlp.up_proj"): "mlp.gate_up_proj"}),),
)
