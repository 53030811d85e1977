"""Build sdist and wheel, and try the wheel in fresh environments: bare and with each extra, newest and oldest versions.

    python .ci/packages.py                        this Python in full; the others bare, with all extras, and serving
    python .ci/packages.py --python 3.13          that Python in full
    python .ci/packages.py --extras train --resolutions lowest-direct

"lowest-direct" installs the oldest version that pyproject.toml allows of whatever it names. PyTorch alone is the
Makefile's there too, because its older builds for Linux take several GB each; --torch "" resolves it like the rest.
Other Pythons are tried where this machine has them, on the newest versions, with all extras in one environment: one of
its own for each extra, with PyTorch, would take a quarter of an hour a Python.
"""

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = (
    *("bare", "llama-index", "langchain", "chroma", "haystack", "sentence-transformers", "mteb"),
    *("bulk", "doctor", "explore", "onnx", "openvino", "serve", "train", "ray"),
)
RESOLUTIONS = ("highest", "lowest-direct", "pip")


def main() -> int:
    """Build, try each environment that was asked for, and tell which failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=HERE, choices=PYTHONS, help="Python to try in full (default: this one)")
    parser.add_argument("--extras", nargs="+", default=EXTRAS, choices=EXTRAS, help="extras to try (default: all)")
    parser.add_argument("--resolutions", nargs="+", default=RESOLUTIONS, choices=RESOLUTIONS)
    parser.add_argument("--torch", default="torch==2.13.0", help="PyTorch to install; '' for what is resolved")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel = build(work / "dist")
        installed = functools.partial(install_extras, wheel, torch=options.torch)
        failed = []
        for resolution in options.resolutions:
            for extra in options.extras if resolution != "pip" else ("bare",):
                install = functools.partial(installed, [extra], resolution, version=options.python)
                failed += tried(f"{extra} {resolution}", options.python, install, [extra], work / "shared")
        for python in filter(interpreter, PYTHONS):
            if python != options.python:
                failed += try_other(python, options, wheel, work)
    print(f"packages: failed: {', '.join(failed)}" if failed else "packages: every environment passed")
    return bool(failed)


def try_other(python: str, options: argparse.Namespace, wheel: Path, work: Path) -> list[str]:
    """Try another Python: as a server with the export of the first, bare, and with all extras in one environment."""
    failed = []
    if (work / "shared" / "export").exists():
        failed += tried("serving", python, functools.partial(install_server, wheel), ["serving"], work / "shared")
    if "highest" in options.resolutions:
        for name, bare in (("bare", True), ("all extras", False)):
            if extras := [extra for extra in options.extras if (extra == "bare") is bare]:
                install = functools.partial(install_extras, wheel, extras, "highest", options.torch, python)
                failed += tried(name, python, install, extras, work / python)
    return failed


def build(dist: Path) -> Path:
    """Build the sdist, of that the wheel, and compare the wheel's files with those that git knows.

    Raises:
        SystemExit: if a file of a package is missing in the wheel, or one is there that git does not know.
    """
    run(uv(), "build", "--quiet", "--out-dir", dist, ROOT)  # the wheel comes from the sdist
    [wheel] = dist.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    known = set(run("git", "-C", ROOT, "ls-files", "cde_retriever", "cde_train").split())
    if packed != known:
        raise SystemExit(
            f"the wheel differs from git in {sorted(packed ^ known)[:10]}; see [tool.hatch] in pyproject.toml"
        )
    print(f"built {wheel.name} of its sdist: {len(packed)} files, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    return wheel


@functools.cache
def torch_found(torch: str, version: str) -> list[str]:
    """Return PyTorch as a requirement with an address: pip may know a small build for a Python that uv does not."""
    if not torch:
        return []
    wanted = ("--only-binary=:all:", "--python-version", version, "--no-deps", "--ignore-installed", "--target", "none")
    report = run(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", *wanted, torch)
    [package] = json.loads(report[report.index("{") : report.rindex("}") + 1])["install"]
    return [f"torch @ {package['download_info']['url']}"]


def install_extras(wheel: Path, extras: Sequence[str], resolution: str, torch: str, version: str, python: Path) -> None:
    """Install the wheel with extras."""
    target = f"{wheel}[{','.join(extras)}]" if extras != ["bare"] else str(wheel)
    packages = [target, *torch_found(torch, version)]
    if resolution == "pip":
        run(uv(), "pip", "install", "--quiet", "--python", python, "pip")
        run(python, "-m", "pip", "install", "--quiet", *packages)
    else:
        run(uv(), "pip", "install", "--quiet", "--python", python, "--resolution", resolution, *packages)
    run(uv(), "pip", "check", "--quiet", "--python", python)


def install_server(wheel: Path, python: Path) -> None:
    """Install what embeds queries by an export, without PyTorch, as docs/serving.md says."""
    run(uv(), "pip", "install", "--quiet", "--python", python, "--no-deps", wheel)
    page = (ROOT / "docs" / "serving.md").read_text().split("On the server:")[1]
    names = [name for line in re.findall(r"^pip install ([^-#\n][^#\n]*)", page, re.MULTILINE) for name in line.split()]
    run(uv(), "pip", "install", "--quiet", "--python", python, *names)


def tried(
    what: str, version: str, install: functools.partial[None], programs: Sequence[str], shared: Path
) -> list[str]:
    """Make an environment, install, and run programs of `try_package.py`; return the name of what failed."""
    name, start, place = f"{version} {what}", time.perf_counter(), shared.parent / "environment"
    shared.mkdir(exist_ok=True)
    try:
        run(uv(), "venv", "--quiet", "--python", interpreter(version) or version, place)
        try:
            install(python=place / "bin" / "python")
        except subprocess.CalledProcessError:  # a registry may fail once
            install(python=place / "bin" / "python")
        installed = time.perf_counter()
        for program in programs:
            run(place / "bin" / "python", ROOT / ".ci" / "try_package.py", program, shared)
        ran = time.perf_counter() - installed
        print(f"{name}: installed in {installed - start:.0f} s, ran {ran:.0f} s", flush=True)
        return []
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{name}: FAILED, {error}\n{str(error.stdout)[-3000:]}", flush=True)
        return [name]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def interpreter(version: str) -> str | None:
    """Return the path of a Python that this machine has, pyenv's too, None if there is none; nothing is downloaded."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    if pyenv:
        return str(pyenv[-1])
    arguments = [uv(), "python", "find", "--no-python-downloads", "--no-project", version]
    found = subprocess.run(arguments, capture_output=True, text=True)
    return found.stdout.strip() or None


def uv() -> str:
    """Return the path of uv: beside this interpreter, or the one on PATH."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else "uv"


def run(*command: str | Path) -> str:
    """Run a command outside of the checkout, so that what is imported is what was installed; return what it printed.

    Raises:
        CalledProcessError: with both streams in `stdout`, if it fails.
        TimeoutExpired: if it takes ten minutes.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)],
        check=True,
        timeout=600,
        text=True,
        cwd=tempfile.gettempdir(),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
