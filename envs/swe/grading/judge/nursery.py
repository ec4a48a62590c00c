"""Where judges come from: a process that has pytest loaded, and forks one for each grading.

    python -I -B bootstrap.py judge.nursery FD

A message on the socket names the folder of a grading and brings two descriptors, the judge's line to its
owner and the place of its complaints; the answer is the judge's process id. The end of the socket is the end,
and judges that are still at work see theirs the same way.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import traceback

from turnwise.envs.swe.grading.judge import program


def main(descriptor: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whose end nobody here waits for
    owner = socket.socket(fileno=int(descriptor))
    while True:
        folder, descriptors, _, _ = socket.recv_fds(owner, 4096, 2)
        if not folder:
            return
        pid = os.fork()
        if pid == 0:
            owner.close()
            become_judge(os.fsdecode(folder), *descriptors)
        for given in descriptors:
            os.close(given)
        owner.sendall(f"{pid}\n".encode())


def become_judge(folder: str, control: int, complaints: int) -> None:
    """Grade, and end without going back to where the nursery was."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(complaints, 2)
        os.close(complaints)
        os.chdir(folder)
        os.environ |= {"HOME": folder, "TMPDIR": folder}
        tempfile.tempdir = None
        random.seed()
        program.main(str(control))
        status = 0
    except BaseException:  # noqa: BLE001  the process ends here, whatever it was
        traceback.print_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the owner may have been killed: no hidden test stays
        sys.stderr.flush()
        os._exit(status)
