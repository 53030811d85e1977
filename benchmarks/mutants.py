"""Change the code of one part in many small ways and count the changes that its tests notice, with mutmut.

    python -m benchmarks.mutants terms          # or: make mutants PART=terms
    python -m benchmarks.mutants terms --show   # the changes that no test noticed, as diffs

Parts are in benchmarks/mutants.toml. A copy of the code is changed, below runs/mutants/PART; a second run of the same
part starts anew.
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
FOUND = {0: "survived", 5: "untested", 33: "untested", 34: "skipped"} | dict.fromkeys(
    (1, 3, -24, 24, 36, 152, 255), "killed"
)
"""What mutmut writes of a mutant's tests: they failed, ran too long, passed, or none runs the line."""


def prepare(part: str, folder: Path) -> None:
    """Copy code and tests into a folder and configure mutmut there for one part."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("cde_retriever", "cde_train", "examples", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "default_checkpoint"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    settings = {
        "source_paths": ["cde_retriever", "cde_train"],
        "only_mutate": PARTS[part]["mutate"],
        "also_copy": ["examples"],
        "pytest_add_cli_args_test_selection": PARTS[part]["tests"],
        "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider", "-x"],
        "use_git_change_detection": False,
        "track_dependencies": False,
    }
    project["tool"] = {"pytest": project["tool"]["pytest"], "mutmut": settings}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(project))


def results(folder: Path) -> dict[str, str]:
    """Return what became of each mutant: killed, survived, untested, or the exit code that says something else."""
    found = {}
    for file in (folder / "mutants").rglob("*.py.meta"):
        for name, code in json.loads(file.read_text())["exit_code_by_key"].items():
            found[name] = FOUND.get(code, f"unclear ({code})")
    return found


def main() -> int:
    """Run one part, or show what survived its last run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--show", action="store_true", help="print the surviving changes of the last run")
    parser.add_argument("--processes", type=int, default=2, help="mutants tested at once (default: 2)")
    options = parser.parse_args()
    folder = ROOT / "runs" / "mutants" / options.part
    tool = [sys.executable, "-m", "mutmut"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    if not options.show:
        prepare(options.part, folder)
        run = [*tool, "run", "--max-children", str(options.processes)]
        subprocess.run(run, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
    found = results(folder)
    alive = sorted(name for name, what in found.items() if what != "killed")
    for name in alive:
        print(f"{found[name]}: {name}")
        if options.show:
            subprocess.run([*tool, "show", name], cwd=folder, env=environment, check=False)
    killed = len(found) - len(alive)
    print(f"{options.part}: {killed} of {len(found)} mutants killed ({killed / max(1, len(found)):.0%})")
    return int(not found or killed < TARGET * len(found))


if __name__ == "__main__":
    sys.exit(main())
