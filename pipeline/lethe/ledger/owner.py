"""Which process holds a reservation, and whether it still runs."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Owner:
    """A process, distinguished by its start from a later one of the same number.

    `host` is `name/machine/boot/namespace`: process numbers mean something only within
    one namespace of one boot of one machine.
    """

    host: str
    pid: int
    process_start: str

    @classmethod
    def current(cls) -> "Owner":
        pid = os.getpid()
        return cls(_host(), pid, _started(pid) or "")

    def may_live(self) -> bool:
        """False only where it is certain that the process has ended.

        Of a process on another machine, or in another container, nothing is certain.
        """
        here = _host()
        if self.host != here:
            then, now = self.host.split("/"), here.split("/")
            rebooted = then[:2] == now[:2] and then[1] != "" and then[2:3] != now[2:3]
            return not rebooted
        if _PROC.joinpath("self").exists():
            return _started(self.pid) == self.process_start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def _host() -> str:
    machine = _line(Path("/etc/machine-id"))[:12]
    boot = _line(_PROC / "sys/kernel/random/boot_id")[:8]
    try:
        namespace = str((_PROC / "self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return "/".join([platform.node().replace("/", "_"), machine, boot, namespace])


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Clock ticks since boot when a process started; None if there is none, or a dead one."""
    try:
        # The name in brackets may hold anything, brackets too; the fields follow the last one.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X", "x") else fields[19]
