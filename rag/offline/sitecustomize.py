"""Every attempt of this Python process to reach another machine → a line in a log, and a refusal.

Python imports a module of this name at the start of every process whose PYTHONPATH has its folder. `rag/selfcheck.py` puts it
there; nothing else does. What native code does behind Python's back is not seen here: `selfcheck --strace` sees that too.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from types import FrameType
from typing import Any

LOG = "FOOTNOTE_OFFLINE_LOG"  # environment variable: the file that lines are appended to
NETWORK_TOOLS = frozenset(
    "apt apt-get aria2c curl dig ftp host lynx nc ncat netcat nslookup ping pip pip3 rsync scp sftp socat ssh telnet traceroute "
    "wget".split()
)
LOCAL_NAMES = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost", "0.0.0.0", "::", "::1"})


def local(host: object) -> bool:
    """Whether a host name or address is this machine, as far as can be told without asking anybody."""
    if host is None:
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    text = text.partition("%")[0].lower().removeprefix("::ffff:")
    parts = text.split(".")
    return text in LOCAL_NAMES or (len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts))


def outbound(event: str, values: tuple[Any, ...]) -> str | None:
    """What an audit event tries to reach outside this machine; None where it is nothing of the kind."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        family, address = int(getattr(values[0], "family", 0)), values[1]
        if family not in (2, 10, 30) or address is None:  # AF_INET, AF_INET6 on Linux and macOS; others stay on this machine
            return None
        host, port = address[0], address[1]
        if event == "socket.bind":  # listening where others can reach it
            open_door = port and (host in ("", "0.0.0.0", "::") or not local(host))
            return f"listening on {host or 'every address'}:{port}" if open_door else None
        return None if local(host) else f"{host}:{port}"
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return None if local(values[0]) else f"the address of {values[0]!r}"
    if event == "socket.getnameinfo":
        return None if local(values[0][0]) else f"the name of {values[0][0]!r}"
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
        name = os.path.basename(os.fsdecode(values[0] or (values[1] or [""])[0]))  # noqa: PTH119 - pathlib is not loaded this early
        return f"the program {name}" if name in NETWORK_TOOLS else None
    if event == "os.system":
        words = os.fsdecode(values[0]).split()
        name = os.path.basename(words[0]) if words else ""  # noqa: PTH119
        return f"the program {name}" if name in NETWORK_TOOLS else None
    return None


def _hook(event: str, values: tuple[Any, ...]) -> None:
    if not event.startswith(("socket.", "subprocess.", "os.")):
        return
    target = outbound(event, values)
    if target is None:
        return
    frame: FrameType | None = sys._getframe(1)
    where: list[str] = []
    while frame is not None and len(where) < 12:
        where.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back
    _write({"event": event, "target": target, "where": where})
    raise OSError(errno.ENETUNREACH, f"refused by selfcheck --offline: {target}")


def _write(line: dict[str, Any]) -> None:
    body = json.dumps({"pid": os.getpid(), "process": " ".join(sys.orig_argv[1:7])[:200], **line}) + "\n"
    os.write(_file, body.encode())  # one write: lines of several processes do not mix


if os.environ.get(LOG):
    # opened once: children that read documents may open nothing for writing, and must be counted all the same
    _file = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _write({"event": "start"})
    sys.addaudithook(_hook)
