"""What is changed in the kernel's source before it is built: a few lines, each with its reason.

An edit names the text that it replaces. Where the text is not found the source is another one
than expected, and nothing is built.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError


class UnexpectedSource(OrchestratorError):
    """A file of the source has not the text that an edit replaces."""


@dataclass(frozen=True, slots=True)
class Edit:
    file: str
    old: str
    new: str


_PROCESS: Final = "arch/um/os-Linux/skas/process.c"
_LEASH: Final = (
    # The guest's programs are processes of the host, held on a leash by ptrace. When the kernel
    # at the other end was killed they would run on, their system calls now the host's own;
    # seen: a guest's shell that started programs on the host. With this option they are
    # killed with it.
    Edit(
        _PROCESS,
        "(void *) PTRACE_O_TRACESYSGOOD)",
        "(void *) (PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))",
    ),
    Edit(
        _PROCESS,
        "(void *)PTRACE_O_TRACESYSGOOD)",
        "(void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))",
    ),
)

_REGISTERS: Final = "arch/x86/um/os-Linux/registers.c"
_LARGE_STATE: Final = (
    # A process is given back its registers as one block, which the host takes whole or refuses
    # (EFAULT; arch/x86/kernel/fpu/regset.c). Processors with AMX have 11,008 octets of them,
    # the kernel room for 2,696: there it died at its first process. The block goes through a
    # larger one now, of the length that the host names. What is beyond stays as it was: the
    # guest's programs cannot have asked for AMX, its registers are in their first state.
    Edit(
        _REGISTERS,
        "#include <registers.h>\n",
        "#include <registers.h>\n#include <string.h>\n\n"
        "static char whole_state[1 << 16];\nstatic size_t whole_state_length;\n",
    ),
    Edit(
        _REGISTERS,
        "\t\tiov.iov_base = fp_regs;\n\t\tiov.iov_len = FP_SIZE * sizeof(unsigned long);\n"
        "\t\tif (ptrace(PTRACE_SETREGSET",
        "\t\tmemcpy(whole_state, fp_regs, FP_SIZE * sizeof(unsigned long));\n"
        "\t\tiov.iov_base = whole_state;\n\t\tiov.iov_len = whole_state_length;\n"
        "\t\tif (ptrace(PTRACE_SETREGSET",
    ),
    Edit(
        _REGISTERS,
        "\tiov.iov_base = fp_regs;\n\tiov.iov_len = FP_SIZE * sizeof(unsigned long);\n"
        "\tif (ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &iov) == 0)\n"
        "\t\thave_xstate_support = 1;\n",
        "\tiov.iov_base = whole_state;\n\tiov.iov_len = sizeof(whole_state);\n"
        "\tif (ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &iov) == 0)\n"
        "\t\thave_xstate_support = 1;\n\twhole_state_length = iov.iov_len;\n",
    ),
)

_CLOCK: Final = (
    # A user-mode kernel gives its scheduler no clock, so that counts in ticks, of 10 ms here
    # (kernel/sched/clock.c): who has just woken waited up to one tick behind whoever ran on,
    # or pushed them aside without a right to. Everywhere else it has one of nanoseconds.
    Edit(
        "arch/um/kernel/time.c",
        "void read_persistent_clock64(struct timespec64 *ts)",
        "unsigned long long sched_clock(void);\n\n"
        "unsigned long long notrace sched_clock(void)\n{\n\treturn os_nsecs();\n}\n\n"
        "void read_persistent_clock64(struct timespec64 *ts)",
    ),
)

EDITS: Final = (*_LEASH, *_LARGE_STATE, *_CLOCK)


def apply(folder: Path) -> None:
    """Edits the source in `folder`. Raises UnexpectedSource."""
    for edit in EDITS:
        file = folder / edit.file
        text = file.read_text()
        if edit.old not in text:
            raise UnexpectedSource(f"{file} has no {edit.old!r}: another source than expected")
        file.write_text(text.replace(edit.old, edit.new))
