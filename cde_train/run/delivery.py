"""Put the result of a run into its output folder, so that a checkpoint that is there is whole."""

import shutil
from pathlib import Path

from cde_retriever.checkpoint.folder import CONFIG_NAME
from cde_retriever.files.replacing import replacing, write_atomically
from cde_train.run.folder import Report, RunFolder
from cde_train.training.low_rank import config_seen_from
from cde_train.training.processes import is_first_process


def deliver(folder: RunFolder, model: Path, report_folder: Path) -> Report:
    """Copy model and report, ``config.json`` last, and return what the run says at its end."""
    with folder.one_at_a_time():
        report = folder.done("report") or {}
        if is_first_process():
            for file in [*report_folder.iterdir(), *model.iterdir()]:
                if file.name != CONFIG_NAME:
                    _copy(file, folder.output / file.name)
            config = config_seen_from(folder.output, model / CONFIG_NAME)
            write_atomically(folder.output / CONFIG_NAME, config)
    return {"checkpoint": str(folder.output), **report}


def _copy(file: Path, target: Path) -> None:
    """Copy a file so that a killed process leaves the old one or the new one."""
    with file.open("rb") as source, replacing(target) as copy:
        shutil.copyfileobj(source, copy)
