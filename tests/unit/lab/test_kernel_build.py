"""The kernel is built once, whole or not at all; the compiler here is a fake of some lines."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.lab import kernel, kernel_edits

FAKES = {
    "dpkg-query": 'printf "installed 6.1.0-1"',
    # The source: what the build looks at.
    "tar": """
        mkdir -p scripts/kconfig
        cp -r "$SOURCE"/* .
        printf '#!/bin/sh\\ncat "$3" >>.config\\n' >scripts/kconfig/merge_config.sh
        chmod +x scripts/kconfig/merge_config.sh
    """,
    "make": """
        for word; do
            case $word in
            tinyconfig) : >.config ;;
            linux)
                echo built >>"$BUILDS"
                [ "$TMPDIR" = "$PWD" ]  # what it leaves there goes with the folder
                if [ -e "$BUILDS.hang" ]; then echo $$ >"$BUILDS.hangs"; exec sleep 1000; fi
                if [ -e "$BUILDS.fail" ]; then echo "foo.c:1: error: no"; exit 1; fi
                for n in $(seq 900); do echo "  CC      file$n.o"; done
                find arch -type f -exec cat {} + >linux
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
    source = tmp_path / "source"
    for name, script in FAKES.items():
        (programs / name).write_text(
            f"#!/bin/sh\nset -e\nBUILDS={builds}\nSOURCE={source}\n{script}\n"
        )
        (programs / name).chmod(0o755)
    for edit in kernel_edits.EDITS:
        file = source / edit.file
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as edited:
            edited.write(edit.old)
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


def test_every_edit_is_in_what_is_built(builds: Path, tmp_path: Path) -> None:
    del builds
    built, _ = provide(tmp_path)
    text = built.read_text()
    assert all(edit.new in text for edit in kernel_edits.EDITS)
    assert text.count("PTRACE_O_EXITKILL") == 2


@pytest.mark.parametrize("edit", kernel_edits.EDITS, ids=lambda edit: Path(edit.file).stem)
def test_another_source_than_expected_is_refused(
    builds: Path, tmp_path: Path, edit: kernel_edits.Edit
) -> None:
    file = tmp_path / "source" / edit.file
    file.write_text(file.read_text().replace(edit.old, "something else"))
    with pytest.raises(kernel_edits.UnexpectedSource, match="another source than expected"):
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
    # Open for both, so that a build which never gets there is no reason to wait for ever.
    told = os.open(hangs, os.O_RDWR)
    with start_in_another_process(tmp_path) as interrupted:
        assert select.select([told], [], [], 60)[0], "the compiler began"
        compiler = os.pidfd_open(int(os.read(told, 64)))
        os.close(told)
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
    monkeypatch.setenv("ORCHESTRATOR_LAB_KERNEL", sys.executable)
    assert provide(tmp_path) == (Path(sys.executable), [])
