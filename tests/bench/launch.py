"""Run a job and print its figures, for all its processes together.

Reads   a job as JSON on stdin: stages that run one after the other, and the commands of each
        stage, of which `width` run at a time
Writes  the stdout and stderr of the commands, to the files that the job names
Prints  {"wall": s, "cpu": s, "peak": bytes, "read": bytes, "written": bytes}

This is a small process, because the peak of a child begins with the size of its parent. The
figures are the kernel's accounts of all children and their children: CPU seconds and the peak of
the largest process (getrusage), and the bytes of system calls (rchar and wchar of /proc/self/io,
without mapped files).
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time


def transferred() -> tuple[int, int]:
    """Bytes read and written so far by this process and the children that it has waited for."""
    with open("/proc/self/io") as file:
        found = dict(line.split(": ") for line in file)
    return int(found["rchar"]), int(found["wchar"])


def run(job: dict[str, object], running: dict[int, int]) -> None:
    """Run all stages. `running` has the pid and pidfd of each running command. A command that fails
    ends the job."""
    files = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    for fd, name in ((1, "stdout"), (2, "stderr")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files.append((os.POSIX_SPAWN_OPEN, fd, str(job[name]), flags, 0o644))
    for stage in job["stages"]:  # type: ignore[attr-defined]
        todo = list(stage)
        while todo or running:
            while todo and len(running) < job["width"]:  # type: ignore[operator]
                argv, environ = todo.pop(0)
                # A process group per command, to end processes that the command leaves behind.
                pid = os.posix_spawnp(argv[0], argv, environ, file_actions=files, setpgroup=0)
                running[pid] = os.pidfd_open(pid)
            ended = select.select(list(running.values()), [], [])[0]
            for pid in [pid for pid, fd in running.items() if fd in ended]:
                status = os.waitpid(pid, 0)[1]
                os.close(running.pop(pid))
                if status:
                    raise SystemExit(f"{argv}: exit {os.waitstatus_to_exitcode(status)}")


def main() -> int:
    """Run the job on stdin."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    job = json.load(sys.stdin)
    running: dict[int, int] = {}
    before, start = transferred(), time.perf_counter()
    try:
        run(job, running)
    finally:
        for pid in running:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    wall, after = time.perf_counter() - start, transferred()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "wall": wall,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
        "read": after[0] - before[0],
        "written": after[1] - before[1],
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
