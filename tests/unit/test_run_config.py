"""Configurations: presets, faults all at once, overrides, and a resolved file that is the run it came from."""

import subprocess
import sys
import tomllib
from dataclasses import asdict, fields, replace

import pytest

from cde_retriever.errors import ConfigError
from cde_train.run.base import idle_settings, resolve
from cde_train.run.config import find_config, load_run_config, parse_run_config, preset_names, settings_of, to_toml
from cde_train.run.sections import OF_THE_PHASE, SECTIONS, ModelSection, PhaseConfig, RunConfig
from cde_train.training.config import TrainConfig
from tests.tiny import plain_encoder, tiny_checkpoint


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_their_resolved_file_is_the_same_run(name, tmp_path):
    config = load_run_config(name)
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_run_config(tmp_path / "run.toml") == config


def test_resolved_file_names_every_setting():
    written = tomllib.loads(to_toml(RunConfig()))
    for name, section in SECTIONS.items():
        expected = {f.name for f in fields(section)} - {key for owner, key in OF_THE_PHASE if owner == name}
        missing = expected - written[name].keys()
        assert all(getattr(section(), key) is None for key in missing), missing
    assert written["phase"][0].keys() == {f.name for f in fields(PhaseConfig)}


def test_a_file_may_name_only_what_was_used():
    used = {"model.base", "held_out.share", "pseudo_queries.generators.0"}
    written = tomllib.loads(to_toml(load_run_config("distil"), used))
    assert written.pop("pseudo_queries").keys() == {"generators"}
    assert written == {"model": {"base": "cde-minilm-l6-short"}, "held_out": {"share": 0.2}, "phase": []}


@pytest.mark.parametrize(("name", "tokens", "documents", "batch"), [("small", 64, 64, 256), ("large", 512, 512, 512)])
def test_presets_follow_the_papers_table(name, tokens, documents, batch):
    config = load_run_config(name)
    phase = config.phase[0]
    assert (config.model.max_length, phase.train_length) == (tokens, tokens)
    assert (config.model.context_size, phase.context_sizes) == (documents, (documents, documents))
    assert (phase.batch_size, config.clustering.cluster_size) == (batch, batch)
    assert (phase.learning_rate, phase.warmup_steps, phase.temperature, phase.epochs) == (2e-5, 1000, 0.02, 3)
    assert phase.train_first_stage


def test_large_preset_has_the_supervised_phase():
    weak, supervised = load_run_config("large").phase
    assert (weak.name, supervised.name, supervised.epochs) == ("weakly-supervised", "supervised", 4)
    assert supervised.hard_negatives > 0


def test_every_fault_is_reported_at_once_and_named_as_on_the_command_line(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        """
        [model]
        max_length = 16
        prompts = {qery = "search: "}
        [clusterin]
        x = 1
        [clustering]
        cluster_size = 1.5
        [packing]
        batch_size = 3
        [[phase]]
        learning_rte = 1
        learning_rate = "fast"
        temperature = 0
        weight_decay = nan
        [[phase]]
        name = "training"
        train_length = 8
        context_sizes = [200, 300]
        """
    )
    with pytest.raises(ConfigError) as error:
        load_run_config(file, ["phase.2.steps=3"])
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[0] == f"{len(lines) - 1} faults in the configuration:"
    expected = [
        "--set phase.2.steps: phase has 2 entries, from phase.0 on; there is no '2'",
        "clusterin is unknown; did you mean clustering?",
        "model.prompts.qery is unknown; did you mean model.prompts.query?",
        "clustering.cluster_size is 1.5, but should be a valid integer",
        "packing.batch_size belongs to the phase; set phase.0.batch_size",
        "phase.0.learning_rte is unknown; did you mean phase.0.learning_rate?",
        "phase.0.temperature is 0, expected more than 0",
        "phase.0.learning_rate is 'fast', but should be a valid number",
        "phase.0.weight_decay is nan, expected a finite number",
        "phase.1.context_sizes is [200, 300], but a batch has 128 documents to draw a context from (hard negatives "
        'are none); lower the first, raise batch_size, or set context_source to "domain"',
        "phase.0.train_length is 128, more than the 16 tokens of model.max_length that the model reads",
        "phase.1.name is 'training', as that of an earlier phase; name it otherwise",
    ]
    assert lines[1:] == expected


def test_hard_negatives_are_no_documents_of_a_batch_that_a_context_is_drawn_from():
    overrides = ["phase.0.context_source=batch", "phase.0.hard_negatives=1", "phase.0.context_sizes=[64, 512]"]
    assert load_run_config(None, overrides).phase[0].batch_size == 64
    with pytest.raises(ConfigError, match=r"context_sizes is \[65, 512\], but a batch has 64 documents"):
        load_run_config(None, [*overrides, "phase.0.context_sizes=[65, 512]"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phase.0.train_first_stage=1", "phase.0.train_first_stage is 1, but should be a valid boolean"),
        ("phase.0.steps=3.0", "phase.0.steps is 3.0, but should be a valid integer"),
        ("model.name=3", "model.name is 3, but should be a valid string"),
        ("phase.0.context_sizes=[4]", r"phase\.0\.context_sizes\.1 is missing"),
        ("phase.0.name=a/b", "phase.0.name is 'a/b', expected letters"),
        ("phase.0.context_source=corpus", "phase.0.context_source is 'corpus', expected 'batch' or 'domain'"),
        ("phase.0.patience=-1", "phase.0.patience is -1, expected at least 0"),
        (
            "model.context_attention=cashed",
            "model.context_attention is 'cashed', expected 'head', 'cached', 'joint' or",
        ),
        ("surrogate.batch_size=0", "surrogate.batch_size is 0, expected at least 1"),
        ("phase=[]", r"--set 'phase=\[\]' is not section\.key=value"),
        ("phase.0.steps", "--set 'phase.0.steps' is not section.key=value"),
        ("phase.steps=3", "--set phase.steps: phase has 1 entries, from phase.0 on; there is no 'steps'"),
        ("phase.0.steps.x=3", "--set phase.0.steps.x: phase.0.steps is a single value and holds no 'x'"),
        ("model=3.5.x", "is not section.key=value"),
    ],
)
def test_a_wrong_override_is_refused_by_its_name(override, message):
    start = [] if override.startswith("phase.0.steps.") is False else ["phase.0.steps=100"]
    with pytest.raises(ConfigError, match=message):
        load_run_config("default", [*start, override])


def test_overrides_are_toml_values_and_text_where_they_are_none():
    config = load_run_config(
        "default",
        [
            "phase.0.learning_rate=3e-5",
            "phase.0.context_sizes=[2, 8]",
            "phase.0.report_to=['tensorboard']",
            "model.name=my-cde",
            'model.base="./a folder"',
            "model.prompts.query=search_query: ",
        ],
    )
    phase = config.phase[0]
    assert (phase.learning_rate, phase.context_sizes, phase.report_to) == (3e-5, (2, 8), ("tensorboard",))
    assert (config.model.name, config.model.base) == ("my-cde", "./a folder")
    assert config.model.prompts == {"query": "search_query: ", "document": ""}


def test_a_fault_hides_no_other_and_invents_none():
    """``eval_steps`` cannot be read; that ``patience`` then seems to lack it is no fault of its own."""
    with pytest.raises(ConfigError) as error:
        load_run_config("default", ["phase.0.eval_steps='often'", "phase.0.patience=3"])
    assert str(error.value).count("\n") == 1
    with pytest.raises(ConfigError) as error:  # nor what goes with some context_attention alone
        load_run_config("default", ["model.context_attention=cashed", "model.share_backbone=true"])
    assert str(error.value).count("\n") == 1


def test_late_context_stands_on_a_first_stage_that_stays():
    with pytest.raises(
        ConfigError, match=r"phase\.0\.train_first_stage is true, but the model's context_attention is 'late'"
    ):
        load_run_config("default", ["model.context_attention=late", "phase.0.train_first_stage=true"])
    assert load_run_config("default", ["model.context_attention=late"]).model.context_attention == "late"


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            ["model.term_statistics=true"],
            r"model\.term_statistics is True, which context_attention 'head' does not have",
        ),
        (["model.share_backbone=true"], r"model\.share_backbone is True, which context_attention 'head' does not have"),
        (
            ["model.context_attention=cached", "model.term_statistics=true"],
            r"model\.term_statistics is true, which needs context_attention 'late'",
        ),
        (["model.output_head=mlp"], r"model\.output_head is 'mlp', which context_attention 'head' does not have"),
        (
            ["model.context_attention=heads"],
            r"model\.context_attention is 'heads', expected 'head', 'cached'",
        ),
        (["model.context_attention=late", "model.sketch_width=64"], r"model\.sketch_width is 64"),
        (["model.context_attention=late", "model.term_shrinkage=0.3"], r"model\.term_shrinkage is 0\.3"),
        (
            ["model.context_attention=late", "model.share_backbone=true"],
            r"phase\.0\.train_backbone is true, but the model's context_attention is 'late' with context_moments",
        ),
    ],
)
def test_settings_of_the_term_head_are_checked(settings, fault):
    with pytest.raises(ConfigError, match=fault):
        load_run_config("default", settings)


@pytest.mark.parametrize("setting", ["term_statistics=true", "sketch_width=64", "prompt_tokens=3", "output_head=mlp"])
def test_what_a_corpus_head_does_not_have_is_one_fault_in_words_of_the_settings(setting):
    with pytest.raises(ConfigError) as caught:
        load_run_config("default", [f"model.{setting}"])
    (fault,) = caught.value.faults
    assert "which context_attention 'head' does not have" in fault


def test_beneath_a_corpus_head_the_encoder_is_what_is_trained(tmp_path):
    still = ["phase.0.train_backbone=false"]
    for base in ("", str(plain_encoder(tmp_path / "plain"))):
        config = load_run_config("default", [*still, f'model.base="{base}"'])
        with pytest.raises(ConfigError, match=r"phase\.0\.train_backbone is false, but beneath a corpus head the enco"):
            resolve(config)
    assert resolve(load_run_config("default", [*still, "model.base=cde-minilm-l6-v1"])).model.term_statistics
    without = ["model.context_moments=false"]  # which is so beneath any head
    assert resolve(load_run_config("default", without)) == resolve(load_run_config("default"))


def test_settings_of_a_context_are_named_beneath_a_head_where_somebody_changed_them():
    changed = ["phase.0.context_sizes=[4, 8]", "phase.0.null_rate=0.5", "phase.0.gate_learning_rate=0.1"]
    named = ["phase.0.context_sizes", "phase.0.null_rate", "phase.0.gate_learning_rate"]
    assert idle_settings(resolve(load_run_config("default", changed))) == named
    inside = [*changed, "model.base=cde-minilm-l6-v1"]
    assert idle_settings(resolve(load_run_config("default", inside))) == []
    assert [idle_settings(resolve(config)) for config in (RunConfig(), load_run_config())] == [[], []]
    assert idle_settings(resolve(load_run_config("distil"))) == []


def test_objects_are_checked_like_files():
    with pytest.raises(ConfigError, match="temperature is 0, expected more than 0"):
        RunConfig(phase=(PhaseConfig(temperature=0),))
    with pytest.raises(ConfigError, match="phase is empty, which leaves nothing to do"):
        RunConfig(phase=())
    with pytest.raises(ConfigError, match=r"model\.dtype is 'int8', expected 'float32', 'float16' or 'bfloat16'"):
        load_run_config("untrained", ["model.dtype=int8"])


@pytest.mark.parametrize(
    ("preset", "setting", "fault"),
    [
        (
            "default",
            "distillation.steps=300",
            r"distillation\.steps is 300, which does not go with phase; leave one of them out",
        ),
        ("distil", "model.term_statistics=true", r"which does not go with model\.term_statistics"),
        (
            "distil",
            "surrogate.model=some/encoder",
            r'learns from vectors of the model itself; set surrogate\.model to ""',
        ),
        ("distil", "distillation.vector_size=5", r"distillation\.vector_size is 5, expected at least 6, or 0"),
    ],
)
def test_distillation_goes_with_no_other_training(preset, setting, fault):
    with pytest.raises(ConfigError, match=fault):
        load_run_config(preset, [setting])


def test_distillation_starts_from_an_encoder_or_a_short_vector():
    assert resolve(load_run_config("distil")).model.max_length == 256
    with pytest.raises(ConfigError, match="cde-minilm-l6-v4 has no short vector, whose numbers are learned"):
        resolve(load_run_config("distil", ["model.base=cde-minilm-l6-v4"]))
    with pytest.raises(ConfigError, match="is a checkpoint, which says both itself; leave them out"):
        resolve(load_run_config("distil", ["model.max_length=128"]))


def test_phase_decides_the_batch_size_of_packing():
    config = load_run_config("small")
    assert config.packing_of(replace(config.phase[0], batch_size=64)).batch_size == 64


def test_phase_is_what_the_trainer_takes():
    assert asdict(PhaseConfig()).items() >= asdict(TrainConfig()).items()


def test_unknown_source_names_the_presets(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.toml is neither a file nor one of the presets default, distil, large"
    ):
        find_config("nothing.toml")
    (tmp_path / "broken.toml").write_text("[model")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        load_run_config(tmp_path / "broken.toml")


def test_settings_are_known_by_their_paths():
    one, other = settings_of(load_run_config()), settings_of(load_run_config(None, ["phase.0.epochs=2"]))
    assert {path: (one[path], other[path]) for path in one if one[path] != other[path]} == {"phase.0.epochs": (3, 2)}
    assert (one["phase.0.context_sizes.1"], one["model.prompts.query"]) == (256, "")


def test_plain_values_of_the_wrong_shape_are_refused():
    with pytest.raises(ConfigError, match="phase is 3, expected "):
        parse_run_config({"phase": 3})
    with pytest.raises(ConfigError, match="model is 3, expected a table of settings"):
        parse_run_config({"model": 3})


def test_reading_a_configuration_loads_no_framework():
    code = "import sys, cde_train.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "faiss", "datasets", "sentence_transformers", "peft"} & set(loaded)


def test_without_a_base_training_starts_from_the_bundled_encoder_beneath_its_head():
    model = resolve(RunConfig()).model
    assert (model.start, model.context_attention, model.context_size) == ("cde-minilm-l6-v4", "head", 8192)
    assert resolve(RunConfig(model=ModelSection(base="cde-minilm-l6-v4"))).model == replace(model, base=model.start)
    first = resolve(RunConfig(model=ModelSection(base="cde-minilm-l6-v1"))).model
    assert (first.context_attention, first.term_statistics, first.sketch_width) == ("late", True, 640)
    with pytest.raises(
        ConfigError, match="context_attention is 'joint', but the checkpoint cde-minilm-l6-v4 has 'head'"
    ):
        resolve(RunConfig(model=ModelSection(context_attention="joint")))


def test_contexts_that_are_larger_than_a_model_reads_are_refused(tmp_path):
    settings = {"context_attention": "joint", "context_size": 16, "max_length": 128}
    in_sequence = tiny_checkpoint(tmp_path / "sequence", positions="sequence", **settings)
    in_text = tiny_checkpoint(tmp_path / "text", **settings)
    phases = (PhaseConfig(context_sizes=(4, 16)), PhaseConfig(name="second", context_sizes=(16, 17)))
    with pytest.raises(
        ConfigError, match=r"^phase\.1\.context_sizes is \[16, 17\], but tiny-bert reads 16 context doc"
    ):
        resolve(RunConfig(model=ModelSection(base=str(in_sequence)), phase=phases))
    assert resolve(RunConfig(model=ModelSection(base=str(in_sequence)), phase=phases[:1])).phase == phases[:1]
    assert resolve(RunConfig(model=ModelSection(base=str(in_text)), phase=phases)).phase == phases
