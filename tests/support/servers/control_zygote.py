"""Starts control processes quickly: imports everything once, then forks.

    python -m tests.support.servers.control_zygote

Each line of standard input is `<settings file> <log file>`. The program starts
`maas.processes.control` in a new process and prints its process id.
"""

from __future__ import annotations

import os
import signal
import sys

import maas.control.server
import maas.processes.control
import maas.storage.local_artifacts


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the children
    for line in sys.stdin:
        settings, log = line.split()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
            os.dup2(1, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["control", "--settings-json", settings]
            os._exit(maas.processes.control.main())
        print(pid, flush=True)


if __name__ == "__main__":
    main()
