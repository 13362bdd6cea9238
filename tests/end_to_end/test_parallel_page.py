"""docs/parallel.md and its second page: blocks are run in order; the runs on two processes equal each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pages import Session

from llmanac.train.metrics import read_metrics

PAGES = ("docs/parallel.md", "docs/parallel-engineering.md")
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": False,
    "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_block_of_the_page_runs(root: Path, session: Session) -> None:
    session.page("\n".join((root / page).read_text("utf-8") for page in PAGES), slow=True)
    runs = [read_metrics(session.folder / name / "pretrain") for name in ("two", "split", "piped")]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in runs]
    assert len(losses[0]) == 8
    for name in ("tuned", "full"):
        kept = json.loads((session.folder / name / "results.json").read_text())
        assert kept["steps"] == 8 and kept["held_out"]["after"] < kept["held_out"]["before"]
    assert (session.folder / "tuned" / "model" / "adapter_config.json").is_file()
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)
