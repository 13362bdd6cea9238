"""Transforms: small trained changes of a frozen model, of its linear maps by name or of what comes before its text.

`adapters.load` reads and writes them in PEFT's layout; an engine serves several at once (`AdapterRegistry`).
"""

from llmanac.adapters._linear import LinearTransform, Merged
from llmanac.adapters._registry import AdapterRegistry
from llmanac.adapters._transform import AdapterSpec, Transform, applied

__all__ = ["AdapterRegistry", "AdapterSpec", "LinearTransform", "Merged", "Transform", "applied"]
