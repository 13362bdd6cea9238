"""torch.compile, where it is wanted and possible: on the CPU it builds C++ code, so it needs a compiler."""

from torch import nn

NO_COMPILER = "note: no C++ compiler was found, so this run is not compiled; install g++ or set CXX"


def compile_model(model: nn.Module) -> None:
    """Compile a model in place: its blocks where it lists them (one compilation serves all), else all of it."""
    # these register operations with the compiler, and import it
    from llmanac.kernels.nn import compiled  # noqa: F401
    from llmanac.models.scores import _compiled  # noqa: F401

    inside = dict(model.named_modules())
    layers = inside.get("model.layers", inside.get("layers"))
    if isinstance(layers, nn.ModuleList):
        for layer in layers:
            layer.compile()
    else:
        model.compile()
