"""The fork server of `ingest/sandbox.py`: loads parsers once, then forks a child for each socket it is sent.

Run as `python -m ingest.parse.server FD PURPOSE SCRATCH`. It has one thread, so forking is safe, and it ends with the
process that started it. A child gives up the network, privileges and its working folder before it reads a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from config import Settings
from errors import DocumentUnreadable
from ingest.sandbox import LOAD, document_to_json

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
MAX_WRITTEN = 600_000_000  # bytes of one file a child may write: what a zip may unpack to
MAX_OPEN_FILES = 256
CONVERTERS = ("pandoc", "soffice", "libreoffice")  # the only programs a child may start
_NETWORK = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.sendto",
    "socket.sendmsg",
)
_WRITES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "shutil.rmtree",
    "shutil.move",
)
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    purpose, scratch = sys.argv[2], Path(sys.argv[3])
    _no_network()
    _give_way()
    if purpose == "render":
        from ingest.parse import render  # noqa: F401
    else:
        from ingest.parse import preload

        preload()
    _freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    children: list[int] = []
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(control, 1, 1)
        except OSError:
            data, fds = b"", []
        if not data:
            for pid in children:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(scratch, ignore_errors=True)  # the parent may have been killed and left it
            return
        if data == LOAD:
            from ingest.parse.elements import preload_unstructured

            preload_unstructured()
            _freeze()
        for fd in fds:
            pid = os.fork()
            if pid == 0:
                control.close()
                _child(socket.socket(fileno=fd), scratch)
                os._exit(0)
            os.close(fd)
            children = [each for each in children if _alive(each)] + [pid]


def _freeze() -> None:
    """What is loaded by now stays shared between the children."""
    gc.collect()
    gc.freeze()


def _give_way() -> None:
    """This session of its own is as nice as the process that started it: Linux shares cores by session first."""
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        if nice > 0:
            Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _no_network() -> None:
    """A network namespace of its own where the system allows one; the audit hook of the children stands in any case."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) == 0:
        return
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _child(channel: socket.socket, scratch: Path) -> None:
    """Answers requests on `channel` until it closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = Path(tempfile.mkdtemp(prefix="child-", dir=scratch))
    confine(folder)
    from ingest.parse.elements import leave_loading_to_server

    leave_loading_to_server()
    _send(channel, {"pid": os.getpid()})
    while True:
        request = _receive(channel)
        if request is None:
            return
        answer = _answer(request, channel)
        _send(channel, answer)
        if request["do"] != "unpack":  # what it unpacked is read by others, and goes with the server
            _tidy(folder)


def confine(folder: Path) -> None:
    """Gives up what reading a file does not need. Cannot be undone in this process."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # native libraries complain of every fault of a file
    os.chdir(folder)
    os.environ["TMPDIR"] = os.environ["HOME"] = str(folder)
    tempfile.tempdir = str(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN, MAX_WRITTEN))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    sys.setrecursionlimit(5000)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    inside = str(folder) + os.sep

    def allowed(path: object) -> bool:
        if isinstance(path, int) or path is None:
            return True
        name = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        return name.startswith(inside) or name == str(folder) or name == os.devnull

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) if isinstance(flags, int) else "w" in str(mode)
            if writes and not allowed(path):
                raise PermissionError("reading a file may not write outside its scratch folder")
        elif event in _NETWORK:
            raise PermissionError("reading a file may not use the network")
        elif event in _WRITES:
            if not all(allowed(each) for each in arguments if isinstance(each, str | bytes | os.PathLike)):
                raise PermissionError("reading a file may not change others")
        elif event in _RUNS or (event == "subprocess.Popen" and Path(os.fsdecode(arguments[0])).name not in CONVERTERS):
            raise PermissionError("reading a file may not start programs")

    sys.addaudithook(audit)


def _answer(request: dict[str, Any], channel: socket.socket) -> dict[str, Any] | bytes:
    try:
        if request["do"] == "render":
            from ingest.parse.render import render_page

            return render_page(Path(request["path"]), request["number"], request["quotes"], request["width"])
        from ingest.parse import parse
        from ingest.parse.elements import NotLoaded

        settings = Settings(**request["settings"])
        if request["do"] == "unpack":
            from ingest.parse.unpack import unpack

            found = unpack(Path(request["path"]), request["name"], Path(tempfile.mkdtemp(prefix="unpacked-")), settings)
            members = [[each.name, str(each.file), each.size] for each in found.members]
            return {"archive": found.archive, "members": members, "left_out": found.left_out}
        try:
            document = parse(
                Path(request["path"]),
                request["name"],
                settings,
                lambda seconds: _send(channel, {"ask": "time", "seconds": seconds}),
            )
        except NotLoaded:
            return {"not_loaded": True}
        return {"document": document_to_json(document)}
    except DocumentUnreadable as error:
        return {"kind": error.kind, "reason": error.message, "cure": error.cure}
    except FileNotFoundError:
        return {"kind": "damaged", "reason": "The file is no longer there.", "cure": "Refresh again."}
    except PermissionError as error:
        return {"kind": "unsupported", "reason": f"The file may not be read ({error}).", "cure": "Check who may read it."}
    except MemoryError:
        return {"kind": "out_of_memory", "reason": "It needs more memory than a file may take.", "cure": "Split it."}
    except Exception as error:  # noqa: BLE001 - the edge: whatever a parser raises on a mangled file is that file's report
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return {
            "kind": "damaged",
            "reason": f"The file could not be read ({what}).",
            "cure": "Open it in its program and save it again.",
        }


def _tidy(folder: Path) -> None:
    """Removes what a converter left in the scratch folder."""
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            _tidy(each)
            with contextlib.suppress(OSError):
                each.rmdir()
        else:
            with contextlib.suppress(OSError):
                each.unlink()


def _send(channel: socket.socket, body: dict[str, Any] | bytes) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    channel.sendall(len(data).to_bytes(8, "big") + data)


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    size = int.from_bytes(_exactly(channel, 8), "big")
    if not size:
        return None
    body = json.loads(_exactly(channel, size))
    return body if isinstance(body, dict) else None


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        data = channel.recv(min(size - len(parts), 1 << 20))
        if not data:
            return b""
        parts += data
    return bytes(parts)


if __name__ == "__main__":
    main()
