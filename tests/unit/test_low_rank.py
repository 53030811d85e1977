"""Low-rank updates: what trains, what is stored, what a reader without `peft` makes of it."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cde_retriever import CheckpointError, ConfigError, ContextualEncoder
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.checkpoint.folder import hash_checkpoint
from cde_retriever.checkpoint.low_rank import LowRankSettings, refuse_misfits
from cde_retriever.encoder.shared_weights import shared_encoder
from cde_train.training import low_rank
from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from cde_train.training.low_rank import (
    add_low_rank,
    config_seen_from,
    load_low_rank_state,
    low_rank_state,
    merge_low_rank,
    write_low_rank,
)
from tests.tiny import FAMILIES, documents, tiny_backbone, tiny_encoder, tiny_tokenizer

RANK, ALPHA = 2, 6.0
TEXTS = documents(7, seed=5, words=30)


def vectors(encoder):
    encoder.fit_context(documents(40))
    return encoder.encode_documents(TEXTS)


def trained(base):
    """Return an encoder with updates that are not zero, read from a base."""
    encoder = ContextualEncoder.from_pretrained(base, device="cpu")
    add_low_rank(encoder.open_model(), RANK, ALPHA)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.open_model().parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder


@pytest.fixture
def base(tmp_path):
    return tiny_encoder(share_word_embeddings=True).save_pretrained(tmp_path / "base")


@pytest.fixture
def folder(tmp_path, base):
    return write_low_rank(tmp_path / "updates", trained(base), base)


@pytest.mark.parametrize("layout", ["cached", "joint", "late"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_embeds_as_what_was_trained(tmp_path, family, layout):
    start = tiny_encoder(family, context_attention=layout, share_word_embeddings=True, output_head="residual_mlp")
    base = start.save_pretrained(tmp_path / "base")
    encoder = trained(base)
    folder = write_low_rank(tmp_path / "updates", encoder, base)
    again = ContextualEncoder.from_pretrained(folder, device="cpu")
    expected = vectors(encoder)
    np.testing.assert_allclose(vectors(again), expected, atol=1e-5, rtol=0)
    assert np.abs(expected - vectors(start)).max() > 1e-2, "the updates must matter"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "low_rank.safetensors"]
    assert not any("lora" in name for name in again.open_model().state_dict())


def test_updates_start_as_zero_whatever_the_process_drew_before(base):
    start = ContextualEncoder.from_pretrained(base, device="cpu")
    before = vectors(start)
    states = []
    for seed in (1, 2):
        encoder = ContextualEncoder.from_pretrained(base, device="cpu")
        torch.manual_seed(seed)
        random_state = torch.random.get_rng_state()
        add_low_rank(encoder.open_model(), RANK, ALPHA)
        assert torch.equal(torch.random.get_rng_state(), random_state)
        np.testing.assert_allclose(vectors(encoder), before, atol=1e-6, rtol=0)
        states.append(low_rank_state(encoder.open_model()))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_training_touches_the_updates_and_the_new_parameters_alone(base):
    encoder = ContextualEncoder.from_pretrained(base, device="cpu")
    add_low_rank(encoder.open_model(), RANK, ALPHA)
    before = {name: p.detach().clone() for name, p in encoder.open_model().named_parameters()}
    ids = [encoder.tokenize(documents(5, seed=seed), "document").ids for seed in (1, 2)]
    context = torch.nn.functional.normalize(torch.randn(6, 32), dim=1)
    batch = TwoStageBatch(*ids, context, torch.zeros(5, 5, dtype=torch.bool), torch.arange(6) == 2)
    optimizer = torch.optim.SGD([p for p in encoder.open_model().parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # lora_A has a gradient once lora_B is not zero
        cached_step(encoder.open_model(), batch, 0.05, Chunking(encoder.text_tokenizer().pad, 2))
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, p in encoder.open_model().named_parameters() if not torch.equal(p, before[name])}
    own = {name for name in before if name.startswith("second_stage.") and ".backbone." not in name}
    assert changed == own | {name for name in before if ".lora_" in name}
    assert len({name for name in before if ".lora_" in name}) == 3 * 6 * 2  # layers, linear layers in each, factors


def test_the_identity_is_its_own_and_follows_updates_and_base(base, folder, tmp_path):
    read = ContextualEncoder.from_pretrained(folder, device="cpu")
    assert read.identity.sha256 == hash_checkpoint(folder) != hash_checkpoint(base)
    shutil.move(base, tmp_path / "moved")
    config = json.loads((folder / "config.json").read_text())
    config["low_rank"]["base"]["name"] = str(tmp_path / "moved")
    (folder / "config.json").write_text(json.dumps(config | {"name": "another"}))
    assert ContextualEncoder.from_pretrained(folder, device="cpu").identity.sha256 == read.identity.sha256
    updates = load_file(folder / "low_rank.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in updates.items()}, folder / "low_rank.safetensors")
    changed = hash_checkpoint(folder)
    assert changed != read.identity.sha256
    config["low_rank"]["base"]["sha256"] = hash_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(config))
    assert hash_checkpoint(folder) not in (changed, read.identity.sha256)


def test_a_relative_base_moves_with_the_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    tiny_encoder().save_pretrained("base")
    write_low_rank("out/updates", trained("base"), "base")
    assert json.loads((tmp_path / "a/out/updates/config.json").read_text())["low_rank"]["base"]["name"] == "../../base"
    expected = vectors(ContextualEncoder.from_pretrained("out/updates", device="cpu"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    np.testing.assert_array_equal(vectors(ContextualEncoder.from_pretrained("b/out/updates", device="cpu")), expected)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy("b/out/updates/low_rank.safetensors", "elsewhere")
    seen = config_seen_from(Path("elsewhere"), Path("b/out/updates/config.json"))
    written = Path("b/out/updates/config.json").read_text()
    assert seen.decode() == written.replace('"../../base"', '"../b/base"') != written
    Path("elsewhere/config.json").write_bytes(seen)
    np.testing.assert_array_equal(vectors(ContextualEncoder.from_pretrained("elsewhere", device="cpu")), expected)


def test_a_configuration_without_a_relative_base_is_copied_as_it_is(tmp_path, base, folder):
    for config in (base / "config.json", folder / "config.json"):
        assert config_seen_from(tmp_path / "elsewhere", config) == config.read_bytes()


def test_files_are_readable_as_the_umask_lets(tmp_path, base):
    updates = trained(base)
    before = os.umask(0o027)
    try:
        folder = write_low_rank(tmp_path / "updates", updates, base)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_a_base_may_be_updates_itself(tmp_path, folder):
    second = write_low_rank(tmp_path / "second", trained(folder), folder)
    read = ContextualEncoder.from_pretrained(second, device="cpu")
    np.testing.assert_allclose(vectors(read), vectors(trained(folder)), atol=1e-5, rtol=0)


def test_saving_what_was_read_writes_a_whole_checkpoint(tmp_path, folder):
    read = ContextualEncoder.from_pretrained(folder, device="cpu")
    whole = read.save_pretrained(tmp_path / "whole")
    np.testing.assert_array_equal(vectors(ContextualEncoder.from_pretrained(whole, device="cpu")), vectors(read))
    read.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    np.testing.assert_array_equal(vectors(ContextualEncoder.from_pretrained(folder, device="cpu")), vectors(read))


def test_merging_makes_a_plain_model(tmp_path, base, folder):
    encoder = trained(base)
    expected = vectors(encoder)
    with pytest.raises(CheckpointError, match="merge_low_rank"):
        encoder.save_pretrained(tmp_path / "whole")
    merge_low_rank(encoder.open_model())
    read = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "whole"), device="cpu")
    np.testing.assert_allclose(vectors(read), expected, atol=1e-5, rtol=0)
    message = "the model has no low-rank updates; call add_low_rank before training, or save_pretrained"
    with pytest.raises(ValueError, match=f"^{message}$"):
        write_low_rank(tmp_path / "updates", encoder, base)


def test_states_are_taken_up_again(base):
    encoder, other = trained(base), ContextualEncoder.from_pretrained(base, device="cpu")
    state = {name: tensor.clone() for name, tensor in low_rank_state(encoder.open_model()).items()}
    add_low_rank(other.open_model(), RANK, ALPHA)
    load_low_rank_state(other.open_model(), state)
    np.testing.assert_array_equal(vectors(other), vectors(encoder))
    state["second_stage.gaet"] = state.pop("second_stage.gate")
    with pytest.raises(
        CheckpointError, match=r"in the saved state .* second_stage\.gate; unexpected second_stage\.gaet"
    ):
        load_low_rank_state(other.open_model(), state)


def test_updates_are_kept_and_others_refused(base):
    encoder = trained(base)
    expected = vectors(encoder)
    add_low_rank(encoder.open_model(), RANK, ALPHA)
    np.testing.assert_array_equal(vectors(encoder), expected)
    said = "the model has updates of rank 2 and alpha 6.0, received rank {}; merge_low_rank(model) first"
    for rank, alpha in ((4, 6.0), (2, 8)):
        with pytest.raises(ValueError, match=f"^{re.escape(said.format(f'{rank} and alpha {alpha}'))}$"):
            add_low_rank(encoder.open_model(), rank, alpha)


def test_another_base_is_refused_in_writing(tmp_path, base):
    other = tiny_encoder(seed=3, share_word_embeddings=True).save_pretrained(tmp_path / "other")
    with pytest.raises(
        CheckpointError,
        match=r"other is not the checkpoint that the updates were trained on: its \S+ is another; give the one that "
        r"training started from$",
    ):
        write_low_rank(tmp_path / "updates", trained(base), other)
    assert not (tmp_path / "updates").exists()


def test_a_base_that_lacks_a_layer_is_refused_in_writing(tmp_path, base):
    encoder, backbone = trained(base), tiny_backbone("bert", len(tiny_tokenizer().get_vocab()))
    short = tiny_encoder(second_stage=backbone | {"num_hidden_layers": 2}, share_word_embeddings=True)
    weights = ContextualEncoder.from_pretrained(base, device="cpu").open_model().state_dict()
    shorter = {name: weights[name][: len(tensor)] for name, tensor in short.open_model().state_dict().items()}
    short.open_model().load_state_dict(shorter)
    with pytest.raises(CheckpointError, match=r"its second_stage\.backbone\.encoder\.layer\.2\.\S+ is missing; give"):
        write_low_rank(tmp_path / "updates", encoder, short.save_pretrained(tmp_path / "short"))


def test_the_bundled_checkpoint_has_no_name(tmp_path, base, monkeypatch):
    monkeypatch.setattr(low_rank, "DEFAULT_CHECKPOINT", base)
    folder = write_low_rank(tmp_path / "updates", trained(base), base)
    assert json.loads((folder / "config.json").read_text())["low_rank"]["base"]["name"] is None


def test_misfits_are_named_ten_of_them_and_how_many_more():
    shapes = {f"w{number:02}": (1, 2) for number in range(12)}
    missing = "; ".join(f"missing w{number:02}" for number in range(10))
    for count, more in ((10, ""), (12, " and 2 more")):
        expected = dict(list(shapes.items())[:count])
        with pytest.raises(CheckpointError) as error:
            refuse_misfits({}, expected, source="there")
        assert str(error.value) == f"the weights in there do not fit its configuration: {missing}{more}"
    found = {"w00": torch.zeros(2, 1), "v": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r": unexpected v; w00 is \(2, 1\), expected \(1, 2\)$"):
        refuse_misfits(found, {"w00": (1, 2)}, source="there")
    refuse_misfits({"w00": torch.zeros(1, 2)}, {"w00": (1, 2)}, source="there")


BASE = {"name": None, "revision": None, "sha256": "0"}


def test_settings_of_updates_are_read_up_to_their_limits():
    read = LowRankSettings.from_dict({"base": BASE, "rank": 1, "alpha": 0.5})
    assert (read.base, read.rank, read.alpha) == (BASE, 1, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"base": {"sha256": "0"}},
        {"base": BASE | {"sha256": None}},
        {"base": BASE | {"name": 5}},
        {"base": BASE | {"revision": 5}},
        {"rank": 0},
        {"rank": 2.0},
        {"alpha": 0},
        {"alpha": float("inf")},
        {"alpha": "8"},
        {"width": 3},
    ],
)
def test_settings_of_updates_that_cannot_be_are_refused_with_what_is_expected(change):
    values = {"base": BASE, "rank": 1, "alpha": 8.0} | change
    with pytest.raises(ConfigError) as error:
        LowRankSettings.from_dict(values)
    assert str(error.value) == (
        f"low_rank in the configuration is {values!r}, expected base (name, revision, sha256), a whole rank above 0, "
        "and alpha above 0"
    )


def test_another_base_is_refused_in_reading(base, folder):
    expected = hash_checkpoint(base)
    tiny_encoder(seed=3, share_word_embeddings=True).save_pretrained(base)
    with pytest.raises(CheckpointError) as error:
        ContextualEncoder.from_pretrained(folder)
    for part in (expected, hash_checkpoint(base), "put the right one there", "low_rank.base"):
        assert part in str(error.value)


def test_a_base_that_is_gone_is_named(base, folder):
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match=r"cannot find the base .*base.*write where it is into low_rank\.base"):
        ContextualEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "cannot read the checkpoint"),
        ("gone", r"has no low_rank\.safetensors"),
        ("rename", r"missing .*query\.lora_B\.weight; unexpected second_stage\.gaet"),
        ("shape", r"second_stage\.gate is \(1, 4\), expected \(3, 4\)"),
    ],
)
def test_damaged_updates_are_refused(folder, change, message):
    file = folder / "low_rank.safetensors"
    weights = load_file(file)
    if change is None:
        file.write_bytes(file.read_bytes()[:-10])
    elif change == "gone":
        file.unlink()
    elif change == "rename":
        weights["second_stage.gaet"] = weights.pop(
            "second_stage.backbone.encoder.layer.1.attention.self.query.lora_B.weight"
        )
        save_file(weights, file)
    else:
        save_file(weights | {"second_stage.gate": torch.zeros(1, 4)}, file)
    with pytest.raises(CheckpointError, match=message):
        ContextualEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "value", [{"rank": 2}, {"base": {}, "rank": 2, "alpha": 2}, "yes", {"base": 1, "rank": 1, "alpha": 1}]
)
def test_damaged_settings_are_refused(folder, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"low_rank": value}))
    with pytest.raises(CheckpointError, match=r"low_rank in the configuration is .* expected base"):
        ContextualEncoder.from_pretrained(folder)


def test_another_tokenizer_is_stored(tmp_path, base):
    encoder = trained(base)
    encoder.tokenizer.add_special_tokens(["luron"])  # a word of its vocabulary
    folder = write_low_rank(tmp_path / "updates", encoder, base)
    assert ContextualEncoder.from_pretrained(folder, device="cpu").tokenizer.to_str() == encoder.tokenizer.to_str()
    with_it = hash_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    assert hash_checkpoint(folder) != with_it


def test_updates_of_the_bundled_checkpoint_are_a_few_megabytes(tmp_path):
    encoder = trained(None)
    folder = write_low_rank(tmp_path / "updates", encoder, None)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    assert json.loads((folder / "config.json").read_text())["low_rank"]["base"]["name"] is None
    read = ContextualEncoder.from_pretrained(folder, device="cpu")
    assert read.encode_first_stage(TEXTS[:1]).shape == (1, 384)


def test_reading_needs_no_peft(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it now raises
    assert ContextualEncoder.from_pretrained(folder, device="cpu").dimension == 32


def test_a_half_precision_base_is_read_in_full_and_stays_so(tmp_path):
    base = tiny_encoder().save_pretrained(tmp_path / "base", dtype=torch.float16)
    encoder = trained(base)
    read = ContextualEncoder.from_pretrained(write_low_rank(tmp_path / "updates", encoder, base), device="cpu")
    again = ContextualEncoder.from_pretrained(read.save_pretrained(tmp_path / "whole"), device="cpu")
    np.testing.assert_allclose(vectors(read), vectors(encoder), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(vectors(again), vectors(read))
    encoder.open_model().half()
    stored = load_file(write_low_rank(tmp_path / "updates", encoder, base) / "low_rank.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_shared_weights_are_read_anew_when_the_updates_are_written_anew(folder, base):
    first = shared_encoder(ModelSpec(str(folder), device="cpu"))
    assert shared_encoder(ModelSpec(str(folder), device="cpu")).backend is first.backend
    encoder = trained(base)
    with torch.no_grad():
        encoder.open_model().second_stage.gate.add_(1)
    write_low_rank(folder, encoder, base)
    assert shared_encoder(ModelSpec(str(folder), device="cpu")).identity.sha256 != first.identity.sha256


def test_a_base_on_the_hub_is_pinned_to_its_commit(base, tmp_path, monkeypatch):
    snapshot = shutil.copytree(base, tmp_path / "cache" / "0123abcd")
    asked = []

    def fetch(name, *, revision, **_):
        asked.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    encoder = trained(base)
    folder = write_low_rank(tmp_path / "updates", encoder, "organisation/model", revision="main")
    read = ContextualEncoder.from_pretrained(folder, device="cpu")
    assert asked[0] == ("organisation/model", "main")
    assert set(asked[1:]) == {("organisation/model", "0123abcd")}
    np.testing.assert_allclose(vectors(read), vectors(encoder), atol=1e-5, rtol=0)


def change_base(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["low_rank"]["base"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def test_updates_that_are_based_on_themselves_are_refused(tmp_path, folder):
    change_base(folder, name="../updates")
    with pytest.raises(CheckpointError, match=r"based on themselves, through .*updates; write the right base"):
        ContextualEncoder.from_pretrained(folder, device="cpu")
    shutil.copytree(folder, tmp_path / "other")
    change_base(folder, name="../other")
    with pytest.raises(CheckpointError, match=r"based on themselves, through .*updates"):
        ContextualEncoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "./nowhere", 5, ["base"]])
def test_a_base_without_a_name_that_can_be_is_refused(folder, name):
    change_base(folder, name=name)
    with pytest.raises(CheckpointError, match=str(folder)) as raised:
        ContextualEncoder.from_pretrained(folder, device="cpu")
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize(
    "change", [{"rank": 10**12}, {"rank": "2"}, {"rank": 2.5}, {"alpha": float("inf")}, {"rank": 0}]
)
def test_ranks_and_scales_that_cannot_be_are_refused(folder, change):
    config = json.loads((folder / "config.json").read_text())
    config["low_rank"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=str(folder)):
        ContextualEncoder.from_pretrained(folder, device="cpu")


def test_updates_of_an_earlier_bundled_model_find_it(tmp_path) -> None:
    """With its name left out, as updates of the model bundled then were written."""
    encoder = trained("cde-minilm-l6-v1")
    expected = vectors(encoder)
    folder = write_low_rank(tmp_path / "updates", encoder, "cde-minilm-l6-v1")
    config = json.loads((folder / "config.json").read_text())
    config["low_rank"]["base"]["name"] = None
    (folder / "config.json").write_text(json.dumps(config))
    found = vectors(ContextualEncoder.from_pretrained(folder, device="cpu"))
    np.testing.assert_allclose(found, expected, atol=1e-5)
