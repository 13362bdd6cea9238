"""A benchmark by its name, or from a file: a .toml file, or a task of lm-eval.

A task file of lm-eval (YAML) as a `Benchmark`, where it names local data and plain Jinja fields.

Read are `dataset_path: json`, `csv` or `parquet` with `dataset_kwargs.data_files`; `output_type` multiple_choice,
generate_until or loglikelihood; `doc_to_text`, `doc_to_target`, `doc_to_choice`, `description`; the filters regex,
remove_whitespace and take_first; acc, acc_norm, acc_bytes, perplexity and exact_match; `include` of a file next to it.
Any other key, and every `!function`, is refused by name: its figures would not be lm-eval's.
"""

import json
import re
from pathlib import Path
from typing import Any

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError, nearest, shown
from llmanac.core.files import KINDS, read_text, read_toml
from llmanac.evaluate.benchmark import Benchmark
from llmanac.metrics.answers import INVALID

MOST = 1 << 20
DEEPEST = 4  # files that include one another
IGNORED = {"task_alias", "tag", "group", "metadata", "should_decontaminate", "doc_to_decontamination_query"}
KNOWN = {
    "task", "include", "dataset_path", "dataset_name", "dataset_kwargs", "output_type", "test_split",
    "validation_split", "training_split", "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice",
    "description", "target_delimiter", "fewshot_delimiter", "num_fewshot", "fewshot_config", "generation_kwargs",
    "filter_list", "metric_list", "repeats",
}  # fmt: skip
COMPARE = {"ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"}
FIELD = re.compile(r"(\s*)\{\{((?:[^{}]|\{[^{}]*\})*)\}\}(\s*)")  # a template that is nothing but one field
NAME = re.compile(r"\w[\w .?/()-]*")  # what a column may be called
FILTERS: dict[str, set[str]] = {
    "regex": {"regex_pattern", "group_select", "fallback"}, "remove_whitespace": set(), "take_first": set(),
}  # fmt: skip
METRICS = {
    "multiple_choice": {"acc", "acc_norm", "acc_bytes"}, "loglikelihood": {"acc", "perplexity"},
    "generate_until": {"exact_match"},
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("output_type", "test_split", "validation_split", "training_split", "fewshot_split"), (str,)),
    **dict.fromkeys(("target_delimiter", "fewshot_delimiter", "filter_list.name", "metric_list.metric"), (str,)),
    **dict.fromkeys(("filter_list.filter.function", "filter_list.filter.regex_pattern"), (str,)),
    **dict.fromkeys(("num_fewshot", "repeats", "generation_kwargs.max_gen_toks"), (int,)),
    **dict.fromkeys(("fewshot_config", "generation_kwargs", "dataset_kwargs"), (dict,)),
    **dict.fromkeys(("filter_list", "filter_list.filter", "metric_list", "metric_list.regexes_to_ignore"), (list,)),
    **dict.fromkeys(("filter_list.", "filter_list.filter.", "metric_list."), (dict,)),  # their elements
    **dict.fromkeys(("metric_list.regexes_to_ignore.", "generation_kwargs.until."), (str,)),
    "generation_kwargs.until": (str, list), "filter_list.filter.group_select": (int,),
}  # fmt: skip


def read_task(path: Path) -> Benchmark:
    """The benchmark of a task file.

    Raises:
        SpecError: what is not read, by its key; or PyYAML is not installed.
        DataError: a file that is no YAML.
    """
    task = _task(path, 0)
    try:
        return _benchmark(task, path)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _task(path: Path, depth: int) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise SpecError(f"{path}: reading YAML needs PyYAML; pip install 'llmanac[yaml]'") from None

    class Loader(yaml.SafeLoader):
        pass

    def function(loader: Any, node: Any) -> Any:
        raise SpecError(
            f"{path}:{node.start_mark.line + 1}: !function {node.value} runs code of the task; write the benchmark as "
            "a .toml file with fields instead"
        )

    Loader.add_constructor("!function", function)
    try:
        found = yaml.load(read_text(path, most=MOST), Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise DataError(f"{path}: not YAML that can be read ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected the keys of a task, got {type(found).__name__}")
    for key in found:
        if key not in KNOWN | IGNORED:
            raise SpecError(f"{path}: {shown(key)} is not read of lm-eval's tasks (read: {', '.join(sorted(KNOWN))})")
    included = found.pop("include", None)
    if included is None:
        return found
    if not isinstance(included, str) or depth == DEEPEST:
        raise SpecError(f"{path}: include: {shown(included)} is not the name of a file, or files include too deeply")
    return {**_task(path.parent / included, depth + 1), **found}


def _check_types(value: Any, key: str = "") -> None:
    """Raises SpecError for a value of another type than `TYPES` has for its key; at the top none is right for all."""
    expected = TYPES.get(key)
    if expected and (value is not None or "." in key) and type(value) not in expected:
        names = " or ".join(KINDS[kind] for kind in expected)
        raise SpecError(f"{key.rstrip('.')}: expected {names}, got {shown(value)}")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_types(inner, f"{key.rstrip('.')}.{name}".lstrip("."))
    elif isinstance(value, list) and f"{key}." in TYPES:
        for inner in value:
            _check_types(inner, f"{key}.")


def _benchmark(task: dict[str, Any], path: Path) -> Benchmark:
    _check_types(task)
    kind = task.get("output_type", "generate_until")
    if kind not in METRICS:
        raise SpecError(f"output_type: {shown(kind)} is not read (read: {', '.join(METRICS)})")
    if task.get("repeats", 1) != 1:
        raise SpecError("repeats: only 1 is read")
    split = task.get("test_split") or task.get("validation_split")
    data = _source(task, split, "test_split")
    made: dict[str, Any] = {
        "title": str(task.get("task", path.stem)),
        "data": data,
        "prompt": _text(task, "doc_to_text"),
    }
    made["description"] = _text(task, "description") if task.get("description") else ""
    made["shots"] = _shots(task, split)
    metrics = task.get("metric_list") or [{"metric": name} for name in METRICS[kind]]
    for one in metrics:
        if not isinstance(one, dict) or one.get("metric") not in METRICS[kind]:
            raise SpecError(
                f"metric_list: {shown(one)} is not read for {kind} (read: {', '.join(sorted(METRICS[kind]))})"
            )
        allowed = {"metric", "aggregation", "higher_is_better"} | (COMPARE if kind == "generate_until" else set())
        if unknown := sorted(set(one) - allowed):
            raise SpecError(f"metric_list: {unknown[0]!r} of {one['metric']} is not read")
        usual = "perplexity" if one["metric"] == "perplexity" else "mean"
        if one.get("aggregation", usual) != usual:
            raise SpecError(f"metric_list: aggregation {shown(one['aggregation'])} of {one['metric']} is not read")
    if kind != "multiple_choice" and task.get("doc_to_choice") is not None:
        raise SpecError(f"doc_to_choice: is not read for {kind}")
    if kind != "generate_until" and any(_steps(one) for one in task.get("filter_list") or []):
        raise SpecError(f"filter_list: only take_first is read for {kind}")
    if kind == "multiple_choice":
        choices = task.get("doc_to_choice")
        choices = list(choices.values()) if isinstance(choices, dict) else choices
        texts = json.dumps(choices) if isinstance(choices, list) else _expression(task, "doc_to_choice")
        made["choices"] = {"texts": texts, "gold": f"{_target(task, 'true')}|lm_eval_gold({texts})"}
    elif kind == "loglikelihood":
        made["target"] = _text(task, "doc_to_target")
        if made["shots"]["count"] and made["shots"]["delimiter"]:
            raise SpecError("num_fewshot: examples of loglikelihood are read only with target_delimiter: ''")
        made["shots"]["delimiter"] = ""  # lm-eval's target holds it
    else:
        made["generation"] = _generation(task, metrics[-1])  # of two that say exact_match the later one counts
        if "references" not in made["generation"]:
            made["target"] = _text(task, "doc_to_target")
    return Benchmark.from_data(made)


def _source(task: dict[str, Any], split: Any, key: str) -> dict[str, Any]:
    if task.get("dataset_path") not in ("json", "csv", "parquet"):
        raise SpecError(
            f"dataset_path: {shown(task.get('dataset_path'))} is a set on the hub; give json, csv or parquet with "
            "dataset_kwargs.data_files"
        )
    kwargs = task.get("dataset_kwargs") or {}
    if not isinstance(kwargs, dict) or set(kwargs) - {"data_files", "cache_dir"}:
        raise SpecError("dataset_kwargs: only data_files is read")
    files = kwargs.get("data_files")
    found = files.get(split) if isinstance(files, dict) else None
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise SpecError(f"dataset_kwargs.data_files: has no one file for {key} {shown(split)}")
    return {"files": found}


def _shots(task: dict[str, Any], split: Any) -> dict[str, Any]:
    config, count = task.get("fewshot_config") or {}, task.get("num_fewshot") or 0
    if not isinstance(config, dict) or set(config) - {"sampler", "samples", "split"}:
        raise SpecError("fewshot_config: only sampler, samples and split are read")
    sampler = config.get("sampler", "default")
    if sampler not in ("default", "first_n"):
        raise SpecError(f"fewshot_config.sampler: {shown(sampler)} is not read (read: default, first_n)")
    out = {
        "count": count, "order": "first" if sampler == "first_n" else "random",
        "separator": task.get("fewshot_delimiter", "\n\n"), "delimiter": task.get("target_delimiter", " "),
    }  # fmt: skip
    own = config.get("split") or task.get("fewshot_split")
    out["leave_out"] = own == task.get("test_split")  # as lm-eval, where both may be missing
    if not own and config.get("samples"):
        return {**out, "samples": config["samples"]}
    own = own or task.get("training_split") or task.get("validation_split") or split
    if own == split:
        return out
    try:
        return {**out, "data": _source(task, own, "fewshot_split")}
    except SpecError:
        if count:
            raise
        return {**out, "leave_out": True}  # examples are not asked for, and the file of theirs is not there


def _text(task: dict[str, Any], key: str) -> str:
    """A template; the bare name of a column is that column."""
    found = task.get(key)
    if not isinstance(found, str):
        raise SpecError(f"{key}: {shown(found)} is not a template in quotes")
    column = found.isidentifier()
    if column if key == "description" else NAME.fullmatch(found) and not column:
        raise SpecError(f"{key}: {shown(found)} may be a column; write it as a template with {{{{ }}}}")
    if column:
        return f"{{{{({found})|lm_eval_text}}}}"
    whole = FIELD.fullmatch(found) if key == "doc_to_text" and task.get("doc_to_choice") is not None else None
    return f"{{{{({whole[2]})|string|lm_eval_text(true)}}}}" if whole and not whole[1] + whole[3] else found


def _expression(task: dict[str, Any], key: str) -> str:
    """The expression of a template that is nothing but one field, or the bare name of a column, or a number."""
    found = task.get(key)
    if type(found) is int:
        return str(found)
    whole = FIELD.fullmatch(found) if isinstance(found, str) else None
    if whole is None and not (isinstance(found, str) and found.isidentifier()):
        raise SpecError(f"{key}: {shown(found)} is not one field such as '{{{{label}}}}', or the name of a column")
    return whole[2].strip() if whole else str(found)


def _target(task: dict[str, Any], digits: str) -> str:
    """The expression of `doc_to_target`: a column's value as it is, a template as lm-eval reads the rendered text."""
    found, inner = task.get("doc_to_target"), _expression(task, "doc_to_target")
    whole = FIELD.fullmatch(found) if isinstance(found, str) else None
    if whole is None:
        return f"({inner})"
    parts = [json.dumps(whole[1]), f"({inner})", json.dumps(whole[3])]
    return f"({' ~ '.join(part for part in parts if part != json.dumps(''))})|lm_eval_target({digits})"


def _steps(one: dict[str, Any]) -> dict[str, Any]:
    """What the steps of a filter do, as fields of `Extraction`."""
    made: dict[str, Any] = {}
    names: list[str] = []
    for step in one.get("filter") or []:
        name = step.get("function")
        if name not in FILTERS:
            raise SpecError(f"filter_list: {shown(name)} is not read (read: {', '.join(FILTERS)})")
        if unknown := sorted(set(step) - FILTERS[name] - {"function"}):
            raise SpecError(f"filter_list: {unknown[0]!r} of {name} is not read")
        if "take_first" in names or (name == "regex" and name in names):
            raise SpecError(f"filter_list: {name} after {', '.join(names)} is not read")
        names.append(name)
        if name == "regex":
            made["pattern"] = step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)")
            made["group"], made["fallback"] = step.get("group_select", 0), step.get("fallback", INVALID)
            if not isinstance(made["fallback"], str):
                raise SpecError(f"filter_list: fallback {shown(made['fallback'])} is not a text in quotes")
        elif name == "remove_whitespace" and "pattern" in made:  # what a pattern finds has none around it
            made["fallback"] = made["fallback"].strip()
        elif name == "remove_whitespace":
            made["strip"] = True
    if (fallback := made.get("fallback", "")) != fallback.strip():
        raise SpecError(f"filter_list: fallback {shown(fallback)} is read only without white space around it")
    return made


def _generation(task: dict[str, Any], metric: dict[str, Any]) -> dict[str, Any]:
    kwargs = task.get("generation_kwargs") or {}
    for key, value in kwargs.items():
        plain = {"do_sample": False, "temperature": 0}
        if key not in ("until", "max_gen_toks", *plain) or (key in plain and value != plain[key]):
            raise SpecError(f"generation_kwargs.{key}: {shown(value)} is not read; decoding is greedy")
    until = kwargs.get("until", task.get("fewshot_delimiter", "\n\n"))
    compare = {
        "ignore_case": bool(metric.get("ignore_case")), "ignore_punctuation": bool(metric.get("ignore_punctuation")),
        "ignore_numbers": bool(metric.get("ignore_numbers")), "ignore": metric.get("regexes_to_ignore") or [],
    }  # fmt: skip
    out: dict[str, Any] = {
        "stop": [until] if isinstance(until, str) else list(until), "length": kwargs.get("max_gen_toks", 256),
        "metrics": [], "extractions": [],
    }  # fmt: skip
    for one in task.get("filter_list") or [{"name": "none", "filter": [{"function": "take_first"}]}]:
        out["extractions"].append({"label": str(one.get("name", "none")), **compare, **_steps(one)})
    target = task.get("doc_to_target")
    if isinstance(target, str) and (target.isidentifier() or FIELD.fullmatch(target)):
        out["references"] = _target(task, "false")
    elif isinstance(target, str) and target[:1] == "[" and target[-1:] == "]":
        raise SpecError(f"doc_to_target: {shown(target)} is a list; only one field is read as a list")
    return out


FOLDER = Path(__file__).parent / "benchmarks"


def files_of() -> dict[str, Path]:
    """The file of each benchmark that comes with llmanac, or with another distribution (see `core/registry.py`)."""
    places = [*(root / "benchmark" for root in registry.packages().values()), FOLDER]
    return {path.stem: path for place in places for path in sorted(place.glob("*.toml"))}


def names() -> list[str]:
    """The benchmarks that are known by name."""
    return sorted(files_of())


def load_benchmark(name: str | Path) -> tuple[str, Benchmark]:
    """`(name, benchmark)` of one that comes with llmanac, or of a .toml file, or of an lm-eval task (.yaml).

    Raises:
        SpecError: no such benchmark, or a key that is not known; it names the file and the key.
        DataError: a file that cannot be read.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.stem, read_task(path)
    if path.suffix != ".toml":
        if str(name) not in names():
            raise SpecError(
                f"benchmark: {shown(str(name))} is not known{nearest(str(name), names())} (known: "
                f"{', '.join(names())}; a path to a .toml file names your own)"
            )
        path = files_of()[str(name)]
    try:
        return path.stem, Benchmark.from_data(read_toml(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
