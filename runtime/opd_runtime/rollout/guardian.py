"""Keeps a process tree tied to one process: `python -IS guardian.py PARENT_PID SCRATCH COMMAND…`, run by path.

The command lives as long as PARENT_PID and no longer, also when that dies of SIGKILL: the guardian is the command's
parent, looks for its own once a second, and ends the command's whole process group. The kernel's "signal me when my
parent dies" alone would not do: it follows the thread that forked, and SGLang's processes ask for it only after seconds
of imports. A guardian that is itself killed (Ray does it to the children of an actor it ends) leaves an heir, who ends
the group. SIGTERM is passed on; SIGQUIT ends the group at once. Exits with the command's status, a signal as 128 + n.
SCRATCH is a folder for the command's temporary files (SGLang leaves its sockets there); it goes when the command ends.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys

PR_SET_PDEATHSIG = 1
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def main() -> int:
    parent, scratch, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.environ["TMPDIR"] = scratch
    try:
        child = _start(command)
        heir = _leave_heir(child, scratch)
        status = _watch(child, parent)
        _kill_group(child)
        os.kill(heir, signal.SIGKILL)
        return status
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _start(command: list[str]) -> int:
    guardian = os.getpid()
    child = os.fork()
    if child:
        # Both sides do it: whoever comes second finds it done, or the command already running.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(127)


def _leave_heir(child: int, scratch: str) -> int:
    """A process that waits for this one to be killed."""
    wait_end, held_end = os.pipe()
    heir = os.fork()
    if heir:
        os.close(wait_end)
        return heir
    os.close(held_end)
    os.read(wait_end, 1)  # nobody writes: it returns when the guardian's end is closed
    _kill_group(child)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _watch(child: int, parent: int) -> int:
    """Until the child ends, or must: its exit status."""
    while True:
        received = signal.sigtimedwait(SIGNALS, 1.0)
        number = received.si_signo if received else 0
        if number == signal.SIGQUIT or os.getppid() != parent:
            _kill_group(child)
        elif number in (signal.SIGTERM, signal.SIGINT):
            os.kill(child, signal.SIGTERM)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
