"""Write the baseline: small folders of every kind that the project reads, and what today's code makes of them.

    python tests/_baseline.py    # writes tests/baseline/{folders/,golden.json}

`tests/end_to_end/test_baseline.py` opens the folders with the code as it is now and compares. The baseline is not made
again when code moves; it is made again only where a change of numbers is the purpose, in a commit that says so.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent / "baseline"
FOLDERS = HERE / "folders"
GOLDEN = HERE / "golden.json"
PROBES = ["The red boat turns.", "Zwölf  Boxkämpfer\n\tjagen 3.14 Viktor", "naïve 🙂 words, don't\u00a0stop"]

SUBJECTS = ["the red boat", "a small engine", "the old teacher", "every river", "the blue lamp", "a young baker"]
VERBS = ["turns", "follows", "carries", "measures", "forgets", "repairs"]
OBJECTS = ["the harbour", "a wooden wheel", "seven letters", "the long road", "two grey stones", "her own map"]


def documents(count: int = 24, seed: int = 3) -> list[str]:
    """Made-up sentences: nothing of anybody else's is kept."""
    rng = random.Random(seed)
    out = []
    for number in range(count):
        lines = [
            f"{rng.choice(SUBJECTS).capitalize()} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.randint(2, 99)} times."
            for _ in range(12)
        ]
        out.append(f"Note {number}\n\n" + " ".join(lines))
    return out


def labelled() -> tuple[list[str], list[str]]:
    """Texts with a label that a word decides."""
    rng = random.Random(5)
    texts = [f"{rng.choice(SUBJECTS)} is {rng.choice(['good', 'fine', 'bad', 'poor'])}" for _ in range(60)]
    return texts, ["yes" if text.split()[-1] in ("good", "fine") else "no" for text in texts]


MODELS = {
    "rope": {"dim": 16, "layers": 2, "max_length": 96},
    "window": {
        "dim": 16,
        "layers": 2,
        "max_length": 96,
        "position": "sinusoidal",
        "blocks": [{"name": "pre-norm", "mixer": {"name": "sliding-window", "window": 8}, "ffn": "relu"}],
    },
    "pointer": {"dim": 16, "layers": 1, "max_length": 96, "position": "learned", "head": "pointer"},
}
TOKENIZERS = {
    "bpe": {"vocab_size": 330},
    "word": {"vocab_size": 60},
    "unigram": {"vocab_size": 320},
    "sentencepiece-bpe": {"vocab_size": 320},
    "utf8": {},
}
CLASSIFIERS = ("bow", "cbow", "deep-cbow")
RECIPE = {
    "name": "baseline",
    "budget": "60s",
    "seed": 4,
    "data": {"source": {"name": "files", "paths": ["text"]}, "held_out": 0.2},
    "tokenizer": {"name": "bpe", "vocab_size": 330},
    "model": {"name": "transformer", "dim": 16, "layers": 1, "max_length": 96},
    "train": {
        "steps": 8,
        "batch_tokens": 256,
        "length": 64,
        "checkpoint_every": 4,
        "keep": 1,
        "dtype": "float32",
        "attention": "plain",
        "compile": "never",
    },
}


def randomise(model: Any, seed: int) -> Any:
    """Weights large enough that masks and positions matter."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.empty(parameter.shape).normal_(0, 0.2, generator=generator)
            parameter.copy_(drawn + (1.0 if parameter.ndim == 1 else 0.0))
    return model.eval()


def make_folders(place: Path) -> None:
    """One small folder of every kind."""
    import llmanac
    from llmanac.models.load import export_model

    texts = documents()
    for name, choices in TOKENIZERS.items():
        llmanac.train_tokenizer(name, texts, **choices).save(place / "tokenizers" / name)
    tokenizer = llmanac.load_tokenizer(place / "tokenizers" / "bpe")
    for number, (name, choices) in enumerate(MODELS.items()):
        model = randomise(llmanac.build("lm", "transformer", vocab_size=tokenizer.vocab_size, **choices), number)
        model.save_pretrained(place / "models" / name)
        tokenizer.save(place / "models" / name)
    export_model(llmanac.load_model(place / "models" / "rope"), place / "models" / "llama", family="llama")
    tokenizer.save(place / "models" / "llama")
    counted = llmanac.build("lm", "ngram", order=3, vocab_size=tokenizer.vocab_size)
    counted.estimate([tokenizer.encode(text) for text in texts])
    counted.save_pretrained(place / "models" / "ngram")
    tokenizer.save(place / "models" / "ngram")
    for name in CLASSIFIERS:
        classifier = llmanac.build("classifier", name)
        classifier.fit(*labelled(), seed=0)
        classifier.save(place / "classifiers" / name)
    source = place / "run" / "text"
    source.mkdir(parents=True)
    for number, text in enumerate(texts):
        (source / f"{number:02}.txt").write_text(text, "utf-8")
    before = Path.cwd()
    os.chdir(place / "run")
    try:
        llmanac.run(RECIPE, folder="done")
    finally:
        os.chdir(before)
    for left in [*(place / "run").rglob("tensorboard"), *(place / "run").rglob("report.html")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def observe(place: Path) -> dict[str, Any]:
    """What the code of today makes of the folders: logits, losses, ids and texts."""
    import torch

    import llmanac
    from llmanac.core.types import Batch
    from llmanac.models.classifiers.load import load_classifier

    torch.set_num_threads(1)
    out: dict[str, Any] = {"tokenizers": {}, "models": {}, "classifiers": {}}
    for name in TOKENIZERS:
        tokenizer = llmanac.load_tokenizer(place / "tokenizers" / name)
        ids = [[int(i) for i in tokenizer.encode(text)] for text in PROBES]
        out["tokenizers"][name] = {
            "vocab_size": tokenizer.vocab_size,
            "ids": ids,
            "text": [tokenizer.decode(row) for row in ids],
        }
    for name in [*MODELS, "llama", "ngram", "run"]:
        folder = place / "models" / name if name != "run" else place / "run" / "done"
        tokenizer = llmanac.load_tokenizer(folder)
        model = llmanac.load_model(folder, dtype=None if name == "ngram" else torch.float64)
        rows = torch.tensor([tokenizer.encode(PROBES[0] + PROBES[1])[:24]])
        with torch.no_grad():
            logits = model(rows).logits[0]
            nll = model.nll(Batch(ids=rows[:, :-1], targets=rows[:, 1:]), "sum")
        answers = llmanac.Engine(model, tokenizer).generate(PROBES[:2], max_new_tokens=12)
        drawn = llmanac.Engine(model, tokenizer).generate(PROBES[:1], max_new_tokens=12, temperature=0.9, seed=7)
        out["models"][name] = {
            "logits": [float(x) for x in logits[[0, -1]].double().flatten()[::7]],
            "nll": float(nll),
            "greedy": [list(map(int, a.ids)) for a in answers],
            "sampled": list(map(int, drawn[0].ids)),
        }
    for name in CLASSIFIERS:
        classifier = load_classifier(place / "classifiers" / name)
        texts = labelled()[0][:6]
        out["classifiers"][name] = {
            "predicted": classifier.predict(texts),
            "scores": [float(x) for x in classifier.scores(texts).ravel()],
        }
    out["losses"] = training_losses(place)
    return out


def training_losses(place: Path) -> list[float]:
    """The loss of each step of the recipe, trained again in a folder of its own."""
    import tempfile

    import llmanac

    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(place / "run" / "text", Path(scratch) / "text")
        before = Path.cwd()
        os.chdir(scratch)
        try:
            llmanac.run(RECIPE, folder="again")
        finally:
            os.chdir(before)
        lines = (Path(scratch) / "again" / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines()
        return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def help_tree() -> dict[str, Any]:
    """Every command with its arguments and options."""
    import typer

    from llmanac import cli

    def walk(command: Any) -> dict[str, Any]:
        if hasattr(command, "commands"):
            return {name: walk(sub) for name, sub in sorted(command.commands.items())}
        return {"takes": sorted("|".join(sorted({*p.opts, *p.secondary_opts})) for p in command.params)}

    return walk(typer.main.get_command(cli.app))


if __name__ == "__main__":
    import llmanac

    shutil.rmtree(FOLDERS, ignore_errors=True)
    FOLDERS.mkdir()
    make_folders(FOLDERS)
    golden = {
        "help": help_tree(),
        "public": sorted(llmanac.__all__),
        "observed": observe(FOLDERS),
    }
    GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"wrote {GOLDEN}")
