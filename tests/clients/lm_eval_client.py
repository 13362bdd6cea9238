import json
import pathlib
import sys
import tempfile

import lm_eval
from lm_eval.tasks import TaskManager

url, name = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "right": i - 2} for i in range(2, 6)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {place / 'rows.jsonl'}\ntest_split: test\n"
    ask = "doc_to_text: 'Q: {{question}} A:'\n"
    choose = "output_type: multiple_choice\ndoc_to_choice: ['4', '6', '8', '10']\ndoc_to_target: right\n"
    write = "output_type: generate_until\ndoc_to_target: '{{answer}}'\n"
    write += "generation_kwargs:\n  until: ['\\n']\n  max_gen_toks: 8\n"
    (place / "choose.yaml").write_text("task: own_choose\n" + data + ask + choose)
    (place / "write.yaml").write_text(
        "task: own_write\n" + data + ask + write + "metric_list:\n  - metric: exact_match\n"
    )
    manager = TaskManager(include_path=folder, include_defaults=False)
    args = f"model={name},base_url={url}/v1/completions,tokenizer_backend=remote,max_length=2048"
    found = lm_eval.simple_evaluate(
        "local-completions", model_args=args, tasks=["own_choose", "own_write"], task_manager=manager
    )
    assert set(found["results"]) == {"own_choose", "own_write"} and found["results"]["own_choose"]["acc,none"] >= 0
    chat = f"model={name},base_url={url}/v1/chat/completions"
    found = lm_eval.simple_evaluate(
        "local-chat-completions", model_args=chat, tasks=["own_write"], task_manager=manager, apply_chat_template=True
    )
    assert "own_write" in found["results"]
print("done: likelihoods, texts, chat")
