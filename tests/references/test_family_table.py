"""docs/models.md's table of families against the code: every family is in one row, and GGUF goes where it says."""

from __future__ import annotations

from pathlib import Path

from llmanac.models.gguf.architectures import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
ROWS = """
Llama, Mistral: llama mistral qwen2 qwen3 gemma gemma2 gemma3_text
Phi-3: phi3
SmolLM3: smollm3
Mixtral: mixtral qwen3_moe
Granite: granite granitemoe
ERNIE 4.5: ernie4_5 glm glm4
OLMo 2: olmo2 exaone4
Hunyuan: hunyuan_v1_dense
OLMo 1 and 3: olmo olmo3
StarCoder 2: starcoder2 nemotron cohere2
StableLM: stablelm phi
Cohere (Command R): cohere
GPT-J: gptj falcon
GPT-NeoX: gpt_neox
GPT-2: gpt2 gpt_neo gpt_bigcode opt bloom mpt
Qwen 2 MoE: qwen2_moe olmoe glm4_moe
gpt-oss: gpt_oss deepseek_v3 minimax mamba mamba2
LFM2: lfm2
BERT: bert roberta xlm_roberta distilbert mpnet electra deberta_v2 modernbert nomic_bert
T5: t5 mt5
BART: bart mbart marian pegasus
"""


def test_the_table_has_every_family_once_and_its_gguf():
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    columns = {row[0]: row[3] for row in table if len(row) == 7}
    rows = {name: kinds.split() for name, _, kinds in (line.partition(": ") for line in ROWS.split("\n")[1:-1])}
    files = {path.stem for path in (ROOT / "src/llmanac/models/families").glob("[!_]*.py")}
    assert sorted(kind for kinds in rows.values() for kind in kinds) == sorted(files)
    written = {one.family for one in ARCHITECTURES.values()} | {"mistral"}  # as Llama
    for name, kinds in rows.items():
        (says,) = [cell for title, cell in columns.items() if title.startswith(name)]
        without = set(kinds) if says == "no" else {"granitemoe"} & set(kinds)  # its cell: "in, out; no"
        assert set(kinds) - written == without, (name, says)
