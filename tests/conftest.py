"""Fixtures that every test may use."""

from __future__ import annotations

import collections
import gc
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from _children import hear_interrupts
from _objects import objects_in

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test never reaches for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: two threads on a busy machine wait for each other
hear_interrupts()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark data: LLMANAC_SHARED_DATA, or `../shared/data`; without it such a test is skipped."""
    path = Path(os.environ.get("LLMANAC_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"needs benchmark data; there is none at {path} (set LLMANAC_SHARED_DATA to its folder)")
    return path


@pytest.fixture(scope="session", autouse=True)
def pages_without_objects() -> Iterator[None]:
    """Every page that a test renders is looked through for what Python prints of an object without a text."""
    render = jinja2.Template.render

    def looked_through(self: jinja2.Template, *given: object, **values: object) -> str:
        text = render(self, *given, **values)
        if self.filename and "llmanac" in self.filename and (found := objects_in(text)):
            raise AssertionError(f"{self.filename} shows {found}")
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Template, "render", looked_through)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from two, and results are bit-identical only for one number of threads."""
    import torch  # only now: the environment above must be set before

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Cases that take many seconds and whose test has shorter cases next to them; `make test-slow` runs them.
SLOW = (
    "test_gguf.py::test_smollm2_greedy_tokens_equal_transformers",
    "test_server_limits.py::test_a_soak_of_seconds",
    "test_english_words.py::test_words_and_sentences_of_hard_texts",
    "test_bpe_vocabularies.py::test_published_vocabularies[llama3",
    "test_bpe_vocabularies.py::test_published_vocabularies[qwen3",
    "test_complexity.py::test_slopes_are_those_of_theory[multi-head]",
    "test_complexity.py::test_slopes_are_those_of_theory[multi-query]",
    "test_complexity.py::test_slopes_are_those_of_theory[grouped-query]",
    "test_classify_resume.py::test_a_stopped_training_goes_on_to_the_same_bytes[9]",
    "test_kill.py::test_killed_anywhere_a_revised_training_ends_as_its_plan_says",
    "test_sentencepiece_training.py::test_rules_equal_the_library_but_for_younger_characters[nmt",
    "test_sentencepiece_training.py::test_the_library_reads_what_was_learned[nmt_nfkc-",  # nmt_nfkc_cf has both
    "test_sentencepiece_training.py::test_the_library_reads_what_was_learned[nfkc_cf-",
    "test_sentencepiece_training.py::test_unigram_compresses_as_well_as_the_library[True]",
    "test_hostile_models.py::test_every_field_with_every_value[gpt2",
    "test_align.py::test_a_reward_model_becomes_a_reward_for_a_policy",  # test_rlhf.py has one in three stages
    "test_ngram_command.py::test_bigram_to_transformer_in_one_comparison",  # below it smoothings are compared
    "test_classifiers.py::test_bow_of_three_labels_reaches_the_optimum",  # above it two labels do
    "test_classifiers.py::test_without_the_nonlinearity_deep_cbow_is_cbow[hidden0]",
    "test_classifiers.py::test_without_the_nonlinearity_deep_cbow_is_cbow[hidden2]",
    "test_classifiers_on_models.py::test_the_loss_curve_is_that_of_a_plain_pytorch_loop[mean-all]",
    "test_packed_files.py::test_a_published_file_takes_its_own_size[qwen",
    "test_packed_files.py::test_a_published_file_is_near_its_dequantized_numbers[qwen]",
    "test_classify.py::test_one_command_makes_the_table[None]",
    "test_files_in_commands.py::test_memory_that_is_calculated_is_what_a_process_takes[torch]",
    "test_sandbox.py::test_every_attack_is_contained[as a user, no user namespaces]",
    "test_sentencepiece_training.py::test_rules_equal_the_library_but_for_younger_characters[nfkc_cf]",
    "test_complexity.py::test_slopes_are_those_of_theory[multi-head@flash]",
    "test_minhash_clusters.py::test_deciding_keeps_to_its_memory[signature]",
    "test_flash.py::test_a_window_has_linear_memory_and_work[bidirectional",
    "test_sparse.py::test_memory_and_products_grow_with_the_length[bidirectional]",
    "test_pace.py::test_killed_after_a_revision_it_does_what_was_written[61",
    "test_pace.py::test_killed_after_a_revision_it_does_what_was_written[70",
    "test_verify.py::test_the_base_in_place_of_the_tuned_model[0.05]",
    "test_verdict_statistics.py::test_false_overall_verdicts_of_small_benchmarks[20-2]",
    "test_verdict_statistics.py::test_false_overall_verdicts_of_small_benchmarks[20-3]",
    "test_verdict_statistics.py::test_false_overall_verdicts_of_small_benchmarks[57-2]",
    "test_complexity.py::test_slopes_are_those_of_theory[attention-sinks]",  # a window's, which is there
    "test_complexity.py::test_slopes_are_those_of_theory[big-bird]",  # longformer's are of the same kernel
    "test_gguf_write.py::test_llama_cpp_generates_the_same[896",
    "test_sentencepiece_training.py::test_the_library_reads_what_was_learned[nfkc-",
    "test_pace.py::test_killed_after_a_revision_it_does_what_was_written[55-fast]",
    "test_pace.py::test_killed_after_a_revision_it_does_what_was_written[1-slow]",
    "test_pace.py::test_a_machine_that_gets_fast_does_more[100]",
    "test_same_bytes.py::test_a_tuning_gives_the_same_bytes_twice[lora-muon]",
    "test_same_bytes.py::test_a_tuning_gives_the_same_bytes_twice[None-adamw]",
    "test_run.py::test_a_refused_run_leaves_a_folder_to_the_next[True-None]",
    "test_run.py::test_a_refused_run_leaves_a_folder_to_the_next[False-mine]",
    "test_minhash_signatures.py::test_candidate_pairs_equal_datasketch[fast-0.8]",
    "test_stats.py::test_false_differences_are_at_most_alpha_over_the_whole_table[3-3-0.02]",
    "test_verify.py::test_the_base_in_place_of_the_tuned_model[0.5]",
    "test_parallel_adapters.py::test_lora_on_masked_completions_equals_one_process[mesh1]",  # dpo's adapter has it
    "test_tokenizer_command.py::test_encode_and_back_a_line_each[word]",
    "test_build_damage.py::test_a_damaged_task_is_done_again_alone[22-",
    "test_refused_writes.py::test_a_disk_that_is_full[exact]",
    "test_without_torch_commands.py::test_texts_of_a_published_file_are_those",  # a small file's are, every way
    "test_sharded_serving.py::test_each_rank_computes_its_part[mesh0]",
    "test_server_command.py::test_ctrl_c_ends_cleanly[False]",
    "test_pages_show_texts.py::test_every_page_of_the_guide_shows_no_object",  # the export's pages are looked through
    "test_verdict_statistics.py::test_false_overall_verdicts_of_small_benchmarks[20-1]",
)
# of the families, these are looked at in every run, the others in the slow one
LOOKED_AT = ("llama", "mamba2", "t5")
EVERY_FAMILY = "test_family_configs.py::test_any_value_of_any_key_is_honoured_or_refused["


# Of each of these tests, whose cases are many combinations or draws, every run has every n-th, and the first with each
# value of each parameter; `make test-slow` has the others.
GRIDS = {
    "test_attention.py::test_every_form_equals_torch": 7,
    "test_beam.py::test_sequences_and_scores_equal_transformers": 5,
    "test_benchmarks.py::test_chains_of_thought_equal_lm_eval": 3,
    "test_benchmarks.py::test_choices_equal_lm_eval": 3,
    "test_benchmarks.py::test_the_error_of_a_perplexity_is_that_of_lm_evals_bootstrap": 3,
    "test_bpe_against_tokenizers.py::test_sets_hold_the_same_characters": 2,
    "test_bpe_json.py::test_ids_and_text_equal_tokenizers": 3,
    "test_bpe_training.py::test_random_corpora": 7,
    "test_build_damage.py::test_what_a_finished_build_has_lost_is_made_again": 2,
    "test_constrain_regex.py::test_random_expressions": 2,
    "test_encoder_fuzz.py::test_logits_and_files_of_random_configs": 10,
    "test_families.py::test_each_family_saves_as_itself_or_as_a_simpler_one": 3,
    "test_families.py::test_gradients_equal_where_transformers_is_float32_in_places": 3,
    "test_families.py::test_logits_and_gradients_equal_in_float64_throughout": 3,
    "test_families.py::test_names_of_a_state_dict_are_read_too": 3,
    "test_families.py::test_ragged_rows_with_a_state_equal_one_pass": 3,
    "test_families.py::test_what_we_save_transformers_loads": 3,
    "test_family_adapters.py::test_a_trained_adapter_is_pefts_and_its_merged_model_the_same": 3,
    "test_family_configs.py::test_a_key_of_the_class_that_is_not_read_has_its_default": 3,
    "test_family_configs.py::test_keys_that_nothing_reads_are_ignored_with_a_note": 3,
    "test_family_fuzz.py::test_logits_and_files_of_random_configs": 10,
    "test_family_fuzz.py::test_what_random_models_write": 8,
    "test_file_model.py::test_a_file_is_read_as_torch_reads_it": 5,
    "test_gguf.py::test_models_round_trip": 2,
    "test_gguf.py::test_transformers_loads_what_is_written": 2,
    "test_hostile_gguf.py::test_every_key_with_every_value": 3,
    "test_json_schema.py::test_random_schemas": 2,
    "test_judging.py::test_kappa_of_few_pairs": 3,
    "test_lying_families.py::test_every_field": 3,
    "test_native_families.py::test_logits_of_random_models": 3,
    "test_optimizers.py::test_adamw_equals_torch": 3,
    "test_pace.py::test_a_machine_that_gets_slow_ends_in_time_with_its_decay": 7,
    "test_paged.py::test_paged_equals_contiguous_through_ragged_rows_forks_joins_and_rewinds": 5,
    "test_pairs.py::test_counts_equal_the_counted": 2,
    "test_pairs.py::test_parts_work_together": 2,
    "test_peft.py::test_what_is_trained_beside_linear_maps_equals_peft": 6,
    "test_preemption.py::test_requests_that_are_put_back_have_the_tokens_that_they_have_alone": 5,
    "test_prefix_cache.py::test_same_tokens_and_log_probabilities": 5,
    "test_quantize_command.py::test_a_gguf_file": 2,
    "test_quantized_files.py::test_gptq_equals_the_formula": 2,
    "test_reading_families.py::test_logits_and_files_of_random_configs": 5,
    "test_rope_scaling.py::test_what_is_generated_does_not_depend_on_how_much_may_be": 9,
    "test_scaling_law.py::test_few_runs_give_no_interval_and_say_so": 3,
    "test_sentencepiece_extend.py::test_ids_equal_the_library_on_the_file_written": 3,
    "test_sentencepiece_ids.py::test_ids_and_text_equal_the_library": 3,
    "test_speculative.py::test_tokens_are_those_without_drafts": 5,
    "test_stats.py::test_false_equivalence_is_at_most_alpha_at_the_margin": 2,
    "test_tokenizer_extend.py::test_going_on_with_the_same_text_is_one_training": 5,
    "test_training_checkpoints.py::test_a_damaged_checkpoint_is_named_and_passed_over": 2,
    "test_tune.py::test_a_refused_tuning_leaves_a_folder_to_the_next": 3,
    "test_verdict_statistics.py::test_false_verdicts_on_null_aggregates": 3,
    "test_verdict_statistics.py::test_what_is_too_far_is_rarely_called_equivalent": 3,
}


ALLOWED = re.compile(
    "|".join(
        f"(?:Skipped: )?{pattern}"
        for group in tomllib.loads((ROOT / "tests" / "allowed_skips.toml").read_text("utf-8"))["skip"]
        for pattern in group["reasons"]
    )
)


def _only_allowed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A skip for a reason that is not in allowed_skips.toml shows nothing: it is a failure."""
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not ALLOWED.match(reason):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: {reason}: no reason of tests/allowed_skips.toml"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _only_allowed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _only_allowed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """While a million objects are made that all stay, looking for garbage among them takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)  # fewer looks at what stays
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def without_garbage() -> Iterator[None]:
    """What a file's tests leave behind ends with it: models of real size among it. What stays is not looked at again
    after every file: a second each, once peers are imported and kept."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow cases. Pages run for minutes by their own budgets: they begin first, so that both workers end
    together."""
    numbers, seen = collections.Counter[str](), set[tuple[str, str, str]]()
    for item in items:
        name = item.nodeid.rpartition("/")[2]
        family = name.removeprefix(EVERY_FAMILY)
        if name.startswith(SLOW) or (family != name and family.rstrip("]") not in LOOKED_AT):
            item.add_marker(pytest.mark.slow)
        elif step := GRIDS.get(test := item.nodeid.partition("[")[0].rpartition("/")[2]):
            named = item.callspec.params.items()
            values = {(test, one, str(value)) for one, value in named if one != "seed"} if len(named) > 1 else set()
            if numbers[test] % step and values <= seen:
                item.add_marker(pytest.mark.slow)
            else:
                seen |= values
            numbers[test] += 1
    items.sort(key=lambda item: item.path.name != "test_readme.py")
