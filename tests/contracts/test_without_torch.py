"""The packages below the models work where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEEDS = ("data.pictures", "kernels.nn")  # pixels, and kernels of tensors
BLOCKED = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")

sys.meta_path.insert(0, Blocked())
"""
IMPORTS = """
root = importlib.import_module("llmanac." + sys.argv[1])
for module in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
    if not module.name.removeprefix("llmanac.").startswith(tuple(sys.argv[2:])):
        importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith("llmanac.")]))
"""
WORK = """
from pathlib import Path
from llmanac.tokenizers.load import train_tokenizer
from llmanac.core.spec import make_method
from llmanac.core import registry
texts = ["the cat sat on the mat", "a dog ran to the park", "cats and dogs"]
tokenizer = train_tokenizer("bpe", texts * 20, vocab_size=300)
assert tokenizer.decode(tokenizer.encode("the cat ran")) == "the cat ran"
index = make_method("retriever", "bm25").build(texts=texts)
assert index.search(["dog in the park"], 1)[0].tolist() == [[1]]
assert make_method("metric", "chrf").build()(texts, [[text] for text in texts]).value > 0.99
assert len(registry.methods("mixer")) > 10
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


PACKAGES = ["core", "kernels", "metrics", "sandbox", "tokenizers", "data", "retrieve", "evaluate.verdict"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_imported(package: str) -> None:
    assert int(run(BLOCKED + IMPORTS, package, *NEEDS)) > 3


def test_the_engine_and_the_server_are_imported() -> None:
    names = (
        "generate.engine generate.native generate.load generate.bench generate.prompts web.server evaluate.evaluation"
    )
    run(BLOCKED + "".join(f"import llmanac.{name}\n" for name in names.split()))
    for package in ("generate.decoding", "generate.constrain", "reason", "act"):
        run(BLOCKED + IMPORTS, package, "generate.constrain.fudge", "act.training")


def test_methods_below_the_models_work() -> None:
    run(BLOCKED + WORK)


def test_the_block_blocks() -> None:
    with pytest.raises(AssertionError, match="torch is blocked"):
        run(BLOCKED + "import llmanac.models.lm.transformer")
