"""Build sdist and wheel, and try the wheel in fresh environments: bare and with each extra, newest and oldest versions.

    python .ci/packages.py                        this Python in full, the others as servers without PyTorch
    python .ci/packages.py --python 3.13          that Python in full, with PyTorch as the registry has it
    python .ci/packages.py --extras train --resolutions lowest-direct

"lowest-direct" installs the oldest version that pyproject.toml allows of whatever it names. PyTorch alone is the
Makefile's there too, because its older builds for Linux take several GB each; --torch "" resolves it like the rest.
"""

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
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
        torch = fetched(options.torch, work / "torch") if options.torch and options.python == HERE else []
        failed = []
        for resolution in options.resolutions:
            for extra in options.extras if resolution != "pip" else ("bare",):
                install = functools.partial(install_extra, wheel, extra, resolution, torch)
                failed += tried(f"{options.python} {extra} {resolution}", options.python, install, extra, work)
        for python in PYTHONS:
            if python != options.python and (work / "export").exists() and interpreter(python):
                failed += tried(f"{python} serving", python, functools.partial(install_server, wheel), "serving", work)
    print(f"packages: failed: {', '.join(failed)}" if failed else "packages: every environment passed")
    return bool(failed)


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


def fetched(torch: str, folder: Path) -> list[str]:
    """Fetch PyTorch by pip, which may know a small build, and return uv's arguments that take this file."""
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, torch)
    [wheel] = folder.glob("*.whl")
    (folder / "torch.txt").write_text(f"torch=={wheel.name.split('-')[1]}\n")
    return ["--find-links", str(folder), "--overrides", str(folder / "torch.txt")]


def install_extra(wheel: Path, extra: str, resolution: str, torch: list[str], python: Path) -> None:
    """Install the wheel with an extra."""
    target = f"{wheel}[{extra}]" if extra != "bare" else str(wheel)
    if resolution == "pip":
        run(uv(), "pip", "install", "--quiet", "--python", python, "pip")
        run(python, "-m", "pip", "install", "--quiet", *torch[:2], target)
    else:
        run(uv(), "pip", "install", "--quiet", "--python", python, "--resolution", resolution, *torch, target)
    run(uv(), "pip", "check", "--quiet", "--python", python)


def install_server(wheel: Path, python: Path) -> None:
    """Install what embeds queries by an export, without PyTorch, as docs/serving.md says."""
    run(uv(), "pip", "install", "--quiet", "--python", python, "--no-deps", wheel)
    page = (ROOT / "docs" / "serving.md").read_text().split("On the server:")[1]
    names = [name for line in re.findall(r"^pip install ([^-#\n][^#\n]*)", page, re.MULTILINE) for name in line.split()]
    run(uv(), "pip", "install", "--quiet", "--python", python, *names)


def tried(name: str, version: str, install: functools.partial[None], program: str, work: Path) -> list[str]:
    """Make an environment, install, and run a program of `try_package.py`; return the name of what failed."""
    start, place = time.perf_counter(), work / "environment"
    try:
        run(uv(), "venv", "--quiet", "--python", interpreter(version) or version, place)
        try:
            install(place / "bin" / "python")
        except subprocess.CalledProcessError:  # a registry may fail once
            install(place / "bin" / "python")
        installed = time.perf_counter()
        run(place / "bin" / "python", ROOT / ".ci" / "try_package.py", program, work)
        print(
            f"{name}: installed in {installed - start:.0f} s, ran {time.perf_counter() - installed:.0f} s", flush=True
        )
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
