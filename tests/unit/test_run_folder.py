"""A run's folder: steps are done once, and nothing of another run, or damaged, is taken for this one's."""

import json
import subprocess

import pytest
import torch

from cde_retriever.errors import ConfigError
from cde_train.errors import ArtifactError
from cde_train.run.base import resolve
from cde_train.run.config import load_run_config
from cde_train.run.environment import checkout_commit, describe_environment
from cde_train.run.folder import RunFolder, hash_files


def run_config(source=None, overrides=()):
    return resolve(load_run_config(source, overrides))


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("one")
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path, data):
    said = []
    folder = RunFolder(tmp_path / "out", said.append)
    folder.said = said
    with folder.claim(run_config(), [data]):
        return folder


def again(folder, data, config=None):
    other = RunFolder(folder.output, folder.say)
    with other.claim(config or run_config(), [data]):
        return other


def write(folder, name="x.txt", text="made"):
    def do():
        (folder.work / name).write_text(text)
        return {"texts_made": 1}

    return do


def test_a_step_is_done_once_over_all_starts(folder, data):
    assert folder.step("making", ["x.txt"], write(folder)) == {"texts_made": 1}
    report = again(folder, data).step("making", ["x.txt"], lambda: pytest.fail("done twice"))
    assert report == {"texts_made": 1}
    assert folder.said == ["making: texts made 1", "making: done already"]


def test_a_step_says_its_figures_in_one_line_and_each_sentence_in_its_own(folder):
    report = {"advice": "Take this model.", "verdicts": ["It is better.", "It is worse."], "rate": 0.12345, "lost": {}}
    folder.step("report", [], lambda: report)
    (said,) = folder.said
    assert said.splitlines() == [
        *("report: rate 0.1235, lost none", "  Take this model.", "  It is better.", "  It is worse.")
    ]


def test_a_step_that_fails_is_not_done(folder, data):
    def half():
        (folder.work / "x.txt").write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.step("making", ["x.txt"], half)
    later = again(folder, data)
    assert later.done("making") is None
    assert later.step("making", ["x.txt"], write(later)) == {"texts_made": 1}


def test_files_that_changed_since_are_refused_by_name(folder, data):
    (folder.work / "sub").mkdir()
    folder.step("making", ["sub"], write(folder, "sub/x.txt"))
    (folder.work / "sub" / "x.txt").write_text("damaged")
    with pytest.raises(ArtifactError, match=r"x\.txt has changed since step 'making' wrote it"):
        again(folder, data).step("making", ["sub"], write(folder))
    (folder.work / "sub" / "x.txt").unlink()
    with pytest.raises(ArtifactError, match=r"x\.txt is gone since step 'making' wrote it"):
        again(folder, data).done("making")


def test_settings_that_a_finished_step_used_are_refused_and_the_difference_named(folder, data):
    folder.step("packing", ["x.txt"], write(folder), uses=["packing", "phase.0.epochs"])
    fault = r"phase\.0\.epochs is 7 here, 3 there, where step 'packing' used it\. Choose another"
    with pytest.raises(ArtifactError, match=fault):
        again(folder, data, run_config(None, ["phase.0.epochs=7"]))
    assert again(folder, data, run_config(folder.output / "run.toml")).done("packing") == {"texts_made": 1}


def test_settings_that_no_finished_step_used_may_change(folder, data):
    folder.step("packing", ["x.txt"], write(folder), uses=["packing", "phase.0.epochs"])
    changed = run_config(None, ["phase.0.learning_rate=3e-5"])
    assert again(folder, data, changed).done("packing") == {"texts_made": 1}
    assert run_config(folder.output / "run.toml") == changed
    with pytest.raises(ArtifactError, match=r"packing\.order is 'random' here, 'greedy' there"):
        again(folder, data, run_config(None, ["packing.order=random"]))


def test_a_step_that_does_not_say_what_it_used_holds_all_settings(folder, data):
    """As earlier versions wrote it."""
    folder.step("packing", ["x.txt"], write(folder))
    values = json.loads(folder.manifest.read_text())
    del values["steps"]["packing"]["settings"]
    folder.manifest.write_text(json.dumps(values))
    assert again(folder, data).done("packing") == {"texts_made": 1}
    with pytest.raises(ArtifactError, match=r"phase\.0\.epochs is 7 here, 3 there"):
        again(folder, data, run_config(None, ["phase.0.epochs=7"]))


def test_other_data_are_refused_once_a_step_has_read_them(folder, data):
    (data / "b.jsonl").write_text("two")
    again(folder, data).step("data", ["x.txt"], write(folder), uses=["data"])
    assert again(folder, data).done("data") == {"texts_made": 1}
    (data / "b.jsonl").write_text("three")
    with pytest.raises(ArtifactError, match="belongs to a run on other data"):
        again(folder, data)


def test_data_are_told_apart_by_names_and_contents(tmp_path, data):
    first = hash_files(data)
    (data / "a.jsonl").rename(data / "b.jsonl")
    second = hash_files(data)
    (data / "b.jsonl").write_text("changed")
    assert len({first, second, hash_files(data), hash_files(data / "b.jsonl")}) == 4
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give pairs"):
        hash_files(tmp_path / "nowhere")


def test_hidden_files_are_no_data(data):
    """A checkout's ``.git`` changes with every command, and no reader looks into it."""
    before = hash_files(data)
    (data / ".git").mkdir()
    (data / ".git" / "index").write_text("one")
    (data / ".DS_Store").write_text("two")
    assert hash_files(data) == before
    hidden = data / ".pairs.jsonl"
    hidden.write_text("named")
    assert hash_files(hidden) != hash_files(data / ".DS_Store"), "a file that is named is read, hidden or not"


def test_a_start_that_is_refused_while_another_is_at_work_changes_nothing_of_it(folder, data):
    (data / "b.jsonl").write_text("other data, which no step has read")
    other, changed = RunFolder(folder.output, folder.say), run_config(None, ["phase.0.learning_rate=3e-5"])
    with again(folder, data).claim(run_config(), [data], {"torch": "1"}):
        before = [(folder.output / "run.toml").read_text(), folder.manifest.read_text()]
        with (
            pytest.raises(OSError, match="another process is writing to"),
            other.claim(changed, [data], {"torch": "2"}),
        ):
            pytest.fail("two at once")
        assert [(folder.output / "run.toml").read_text(), folder.manifest.read_text()] == before
        with other.claim(run_config(), [data], {"torch": "1"}, first=False):  # another process of the same start
            pass
    assert again(folder, data, changed).environments() == [{"torch": "1"}]


@pytest.mark.parametrize("name", ["thesis.tex", "workshop.md", "run.toml.old"])
def test_a_folder_of_something_else_is_left_alone(name, tmp_path, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ArtifactError, match="holds files that are not of a run"):
        again(RunFolder(tmp_path / "out", print), data)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_an_output_inside_the_data_is_refused(data):
    with pytest.raises(ConfigError, match="lies inside the data"):
        again(RunFolder(data / "out", print), data)


def test_a_process_killed_before_the_manifest_leaves_a_folder_that_can_be_used(folder, data):
    folder.manifest.unlink()
    (folder.output / ".run.toml.x3f").write_text("half")
    assert again(folder, data).done("making") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": {}}'])
def test_a_damaged_manifest_is_refused(folder, data, content):
    folder.manifest.write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        again(folder, data)


def test_a_manifest_of_another_version_is_refused(folder, data):
    values = json.loads(folder.manifest.read_text())
    folder.manifest.write_text(json.dumps(values | {"format_version": 99}))
    with pytest.raises(ArtifactError, match="has format 99, this version reads 1"):
        again(folder, data)


def test_a_damaged_configuration_is_refused(folder, data):
    (folder.output / "run.toml").write_text("[mod")
    with pytest.raises(ArtifactError, match=r"run\.toml is damaged"):
        again(folder, data)


def test_a_step_says_how_long_it_took(folder, monkeypatch):
    clock = iter([5.0, 7.25])
    monkeypatch.setattr("cde_train.run.folder.perf_counter", lambda: next(clock))
    folder.step("making", ["x.txt"], write(folder))
    assert folder.seconds() == {"making": 2.25}


def test_what_a_run_ran_on_is_kept_where_it_changed(folder, data):
    assert folder.environments() == []
    for environment in ({"torch": "1"}, {"torch": "1"}, {"torch": "2"}, None):
        with RunFolder(folder.output, folder.said.append).claim(run_config(), [data], environment):
            pass
    assert folder.environments() == [{"torch": "1"}, {"torch": "2"}]


def test_the_environment_names_versions_and_the_checkouts_commit(tmp_path):
    found = describe_environment()
    assert found["torch"] == torch.__version__
    assert found["threads"].startswith(f"{torch.get_num_threads()} of ")
    (tmp_path / "package").mkdir()
    assert checkout_commit(tmp_path / "package") is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert checkout_commit(tmp_path / "package") == head
