"""Change the code of one part in many small ways and count the changes that its tests notice, with mutmut.

    python -m benchmarks.mutants terms          # or: make mutants PART=terms
    python -m benchmarks.mutants terms --show   # the changes that no test noticed, as diffs
    python -m benchmarks.mutants terms --again  # try only these again, with the tests as they are now
    python -m benchmarks.mutants terms --digits 37  # only those whose number ends with 3 or 7, a fifth

Parts are in benchmarks/mutants.toml, each with the minutes that all of its mutants take on two free cores; of a part
that takes more than ten a sample is tried. A copy of the code is changed, below runs/mutants/PART, where output.txt
says what mutmut said; a second run of the same part starts anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import tomli_w

ROOT = Path(__file__).parent.parent
PARTS = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text())
TARGET = 0.85
MINUTES = 10.0
DIGITS = "3719502846"
"""Last digits of mutants' numbers, those that a sample has first."""
FOUND = (
    {0: "survived", 5: "untested", 33: "untested", 34: "skipped"}
    | dict.fromkeys((1, 3, -6, -9, -11), "killed")
    | dict.fromkeys((-24, 24, 36, 152, 255), "too slow")
)
"""What mutmut writes of a mutant's tests: they passed, none runs the line, they failed or crashed, or ran too long."""


def sample(part: str) -> str:
    """Return the last digits of the numbers of mutants that ten minutes are enough for, all where they are."""
    minutes = PARTS[part]["minutes"]
    digits = DIGITS[: max(1, int(len(DIGITS) * MINUTES / max(minutes, MINUTES)))]
    if digits != DIGITS:
        print(
            f"{part}: all mutants take about {minutes} minutes on two free cores, so this tries a sample, those whose "
            f"number ends with {' or '.join(digits)}; --digits {DIGITS} tries all"
        )
    return digits


def prepare(part: str, folder: Path) -> None:
    """Copy code and tests into a folder, to be changed there, and choose the tests."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("cde_retriever", "cde_train", "examples", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    choose_tests(part, folder)


def choose_tests(part: str, folder: Path) -> None:
    """Configure mutmut for one part."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    settings = {
        "source_paths": ["cde_retriever", "cde_train"],
        "only_mutate": PARTS[part]["mutate"],
        "also_copy": ["examples", "benchmarks"],
        "pytest_add_cli_args_test_selection": PARTS[part]["tests"],
        "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider", "-x"],
        "use_git_change_detection": False,
        "track_dependencies": False,
        "timeout_multiplier": 8.0,
        "timeout_constant": 10.0,  # seconds; on a crowded machine a test's start alone takes as long
    }
    project["tool"] = {"pytest": project["tool"]["pytest"], "mutmut": settings}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(project))


def renew_tests(part: str, folder: Path) -> None:
    """Copy the tests as they are now over those of a part's last run, and choose them as is said now."""
    choose_tests(part, folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def results(folder: Path) -> dict[str, str]:
    """Return what became of each mutant that was tried: killed, too slow, survived, untested, or the exit code."""
    found = {}
    for file in (folder / "mutants").rglob("*.py.meta"):
        for name, code in json.loads(file.read_text())["exit_code_by_key"].items():
            if code is not None:
                found[name] = FOUND.get(code, f"unclear ({code})")
    return found


def survivors(found: dict[str, str]) -> list[str]:
    """Return the names of the mutants that no test noticed."""
    return sorted(name for name, what in found.items() if what not in ("killed", "too slow"))


def main() -> int:
    """Run one part, or show what survived its last run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--show", action="store_true", help="print the surviving changes of the last run")
    parser.add_argument("--again", action="store_true", help="test only what survived the last run once more")
    parser.add_argument("--digits", help="last digits of the numbers of mutants to test (default: for ten minutes)")
    parser.add_argument("--processes", type=int, default=2, help="mutants tested at once (default: 2)")
    options = parser.parse_args()
    folder = ROOT / "runs" / "mutants" / options.part
    tool = [sys.executable, "-m", "mutmut"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    if not options.show:
        chosen = survivors(results(folder)) if options.again else [f"*[{options.digits or sample(options.part)}]"]
        renew_tests(options.part, folder) if options.again else prepare(options.part, folder)
        run = [*tool, "run", "--max-children", str(options.processes), *chosen]
        with (folder / "output.txt").open("w") as output:
            subprocess.run(run, cwd=folder, env=environment, stdout=output, stderr=output, check=False)
    found = results(folder)
    for name in survivors(found):
        print(f"{found[name]}: {name}")
        if options.show:
            subprocess.run([*tool, "show", name], cwd=folder, env=environment, check=False)
    killed, slow = len(found) - len(survivors(found)), sum(what == "too slow" for what in found.values())
    share = f"{killed / max(1, len(found)):.1%}"
    print(
        f"{options.part}: {killed} of {len(found)} mutants killed ({share}), {slow} of them because tests ran too long"
    )
    return int(not found or killed < TARGET * len(found))


if __name__ == "__main__":
    sys.exit(main())
