"""OLMo 3: OLMo 2's form with a window in three of four layers; a scaling of the rotation is that of the others.

OLMo Team 2025.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family
from llmanac.models.families._windows import alternating
from llmanac.models.families.gemma3_text import Ropes
from llmanac.models.families.olmo2 import FAMILY as OLMO2

ROPE = Rope(theta=5e5)

FAMILY = Family(
    architecture="Olmo3ForCausalLM",
    spec=OLMO2.spec,
    entries=(
        *OLMO2.entries[:-1],
        alternating(4, 4096),
        Ropes(full=ROPE, sliding=ROPE, local=""),
    ),
)
