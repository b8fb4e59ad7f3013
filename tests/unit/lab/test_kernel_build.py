"""The kernel is built once, whole or not at all; the compiler here is a fake of some lines."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.lab import kernel

FAKES = {
    "dpkg-query": 'printf "installed 6.1.0-1"',
    # The source: what the build looks at.
    "tar": """
        mkdir -p scripts/kconfig arch/um/os-Linux/skas
        printf '(void *) PTRACE_O_TRACESYSGOOD)(void *)PTRACE_O_TRACESYSGOOD)' \
            >arch/um/os-Linux/skas/process.c
        printf '#!/bin/sh\\ncat "$3" >>.config\\n' >scripts/kconfig/merge_config.sh
        chmod +x scripts/kconfig/merge_config.sh
    """,
    "make": """
        for word; do
            case $word in
            tinyconfig) : >.config ;;
            linux)
                echo built >>"$BUILDS"
                if [ -e "$BUILDS.hang" ]; then echo $$ >"$BUILDS.hangs"; exec sleep 1000; fi
                if [ -e "$BUILDS.fail" ]; then echo "foo.c:1: error: no"; exit 1; fi
                for n in $(seq 900); do echo "  CC      file$n.o"; done
                cp arch/um/os-Linux/skas/process.c linux
                ;;
            esac
        done
    """,
    "strip": ":",
}


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gets a line for each compilation. The fakes are in the PATH, the cache is empty."""
    programs = tmp_path / "bin"
    programs.mkdir()
    builds = tmp_path / "builds"
    for name, script in FAKES.items():
        (programs / name).write_text(f"#!/bin/sh\nset -e\nBUILDS={builds}\n{script}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "source.tar.xz").touch()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ORCHESTRATOR_LAB_KERNEL", raising=False)
    return builds


def provide(tmp_path: Path) -> tuple[Path, list[str]]:
    """The kernel, and what was said."""
    said: list[str] = []
    source = kernel.Source("linux-source", tmp_path / "source.tar.xz")
    return kernel.provide(said.append, source), said


def in_cache(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "orchestrator").iterdir()}


def start_in_another_process(tmp_path: Path) -> "subprocess.Popen[str]":
    script = (
        "import sys; from pathlib import Path; from tests.unit.lab.test_kernel_build import *;"
        "print(provide(Path(sys.argv[1]))[0])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )


def test_builds_once_and_says_so(builds: Path, tmp_path: Path) -> None:
    built, said = provide(tmp_path)
    assert built.exists()
    assert [line for line in said if "once" in line]
    assert [line for line in said if line == "compiling, 90 %"]
    again, said = provide(tmp_path)
    assert (again, said) == (built, [])
    assert builds.read_text() == "built\n"


def test_the_guests_programs_die_with_their_kernel(builds: Path, tmp_path: Path) -> None:
    del builds
    built, _ = provide(tmp_path)
    assert built.read_text().count("PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL") == 2


def test_another_source_than_expected_is_refused(builds: Path, tmp_path: Path) -> None:
    tar = tmp_path / "bin" / "tar"
    tar.write_text(tar.read_text().replace("PTRACE_O_TRACESYSGOOD", "SOMETHING_ELSE"))
    with pytest.raises(kernel.KernelBuildError, match="another source than expected"):
        provide(tmp_path)
    assert not builds.exists()


def test_an_option_that_kconfig_drops_is_named(builds: Path, tmp_path: Path) -> None:
    tar = tmp_path / "bin" / "tar"
    tar.write_text(tar.read_text().replace('cat "$3"', 'grep -v VETH "$3"'))
    with pytest.raises(kernel.KernelBuildError, match="Kconfig dropped CONFIG_VETH=y"):
        provide(tmp_path)
    assert not builds.exists()


def test_a_failed_build_shows_what_make_said_and_leaves_nothing(
    builds: Path, tmp_path: Path
) -> None:
    Path(f"{builds}.fail").touch()
    with pytest.raises(kernel.KernelBuildError, match=r"foo\.c:1: error: no"):
        provide(tmp_path)
    assert in_cache(tmp_path) == {"kernel.lock"}


def test_without_the_source_it_says_what_installs_it(builds: Path, tmp_path: Path) -> None:
    del builds
    (tmp_path / "source.tar.xz").unlink()
    with pytest.raises(kernel.KernelBuildError, match="vagrant/bootstrap installs it"):
        provide(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_is_cleaned_up_and_done_again(
    builds: Path, tmp_path: Path, number: signal.Signals
) -> None:
    Path(f"{builds}.hang").touch()
    hangs = Path(f"{builds}.hangs")
    os.mkfifo(hangs)
    with start_in_another_process(tmp_path) as interrupted:
        compiler = os.pidfd_open(int(hangs.read_text()))
        interrupted.send_signal(number)
        interrupted.wait()
    assert select.select([compiler], [], [], 10)[0], "the compiler ended with its builder"
    os.close(compiler)
    assert not [name for name in in_cache(tmp_path) if name.startswith("linux-")]
    Path(f"{builds}.hang").unlink()
    built, _ = provide(tmp_path)
    assert in_cache(tmp_path) == {"kernel.lock", built.name}


def test_two_at_once_build_once(builds: Path, tmp_path: Path) -> None:
    with start_in_another_process(tmp_path) as one, start_in_another_process(tmp_path) as two:
        assert one.communicate()[0] == two.communicate()[0] != ""
    assert builds.read_text() == "built\n"


def test_a_kernel_of_ones_own_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LAB_KERNEL", "/some/linux")
    assert provide(tmp_path) == (Path("/some/linux"), [])
