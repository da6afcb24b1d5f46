"""What differs between operating systems: the one module that asks which one this is.

Linux, macOS and Windows differ in how processors are counted, files locked, processes started and found
alive, folders swapped and memory told. Each function takes what the system has and says what it gives where
that is missing, so that nothing else in the package names `fcntl`, `resource`, `/proc` or a signal that
only some systems know. Modules that not every call needs (psutil, filelock) are imported where they are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import os
import platform
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import FrameType
from typing import IO, Any, Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import resource
except ImportError:  # Windows
    resource = None

WINDOWS = sys.platform == "win32"


# Processors.


def cores() -> int:
    """How many processors this process may use; 1 where the system does not tell.

    >>> cores() >= 1
    True
    """
    allowed = affinity()
    return len(allowed) if allowed else os.cpu_count() or 1


def affinity() -> set[int] | None:
    """The numbers of the processors that this process may use; None where the system cannot tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return _other_affinity()


def _other_affinity() -> set[int] | None:
    import psutil

    process: Any = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return None
    with contextlib.suppress(OSError, psutil.Error, AttributeError):
        return set(process.cpu_affinity())
    return None


def use_only(processors: set[int]) -> bool:
    """Keep this process (on Linux: this thread) to these processors; False where that cannot be done."""
    if hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, processors)
        except OSError:
            return False
        return True
    import psutil

    process: Any = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return False
    try:
        process.cpu_affinity(sorted(processors))
    except (OSError, ValueError, psutil.Error, AttributeError):
        return False
    return True


def be_nice(by: int) -> None:
    """Let other processes go first; nothing happens where the system has no way to say so.

    Args:
        by: steps of Unix's niceness; on Windows every number means the priority class below normal.
    """
    with contextlib.suppress(OSError):
        if hasattr(os, "nice"):
            os.nice(by)
        elif WINDOWS:
            import psutil

            psutil.Process().nice(psutil.__dict__["BELOW_NORMAL_PRIORITY_CLASS"])


@functools.cache
def processor() -> str:
    """The processor's model name, as far as the system tells."""
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            told = subprocess.run(
                asked, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            if told:
                return told
    return platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """The instruction sets that Linux lists for an x86 processor; elsewhere none is known."""
    return frozenset(_cpuinfo().split())


def virtual() -> bool | None:
    """Whether this is a virtual machine; None where the system does not tell."""
    told = _cpuinfo()
    return "hypervisor" in told if told else None


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# Memory.


def peak_bytes() -> int | None:
    """The most memory that this process has had resident; None where the system does not tell."""
    try:  # what `resource` says begins with what the process that started this one had
        with Path("/proc/self/status").open(encoding="utf-8", errors="replace") as status:
            return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    if resource is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    import psutil

    told = psutil.Process().memory_info()
    return getattr(told, "peak_wset", None) or told.rss  # Windows tells the peak


def free_memory() -> None:
    """Give memory that is free in this process back to the system, as far as that can be done (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory_low() -> None:
    """Have memory given back to the system as soon as it is free, from now on and as far as can be (Linux).

    glibc keeps what was freed: in a heap for each of up to eight threads a core, and in blocks of up to 32 MB
    once such a block was freed. Here there are two heaps, and from 1 MB on a block is the system's own.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL(None)
        for parameter, value in ((_M_ARENA_MAX, 2), (_M_MMAP_THRESHOLD, 1 << 20)):
            libc.mallopt(parameter, value)


_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


# Locks.


class Taken(OSError):
    """A lock is held by somebody else."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock that a file stands for; the system lets go of it when this process ends, however it does.

    Args:
        path: of a file that is made where there is none, and that nobody else uses.
        wait: for whoever has it.

    Raises:
        Taken: another process, or another part of this one, has it.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is not None:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Taken(errno.EAGAIN, "is locked by another process", str(path)) from None
            yield
        return
    import filelock

    kind = filelock.WindowsFileLock if WINDOWS else filelock.SoftFileLock
    lock = kind(path, timeout=-1 if wait else 0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Taken(errno.EAGAIN, "is locked by another process", str(path)) from None
    try:
        yield
    finally:
        lock.release()


# Processes.


class Start(Protocol):
    """Starts the process that `start_apart` prepared."""

    def __call__(
        self, alive: Path, command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """
        Args:
            alive: where the file is by now; command: program and arguments; env: the process's whole
            environment; output: where what it prints goes.

        Raises:
            OSError: it cannot be started.
        """
        ...


@contextlib.contextmanager
def start_apart(alive: Path) -> Iterator[Start]:
    """Start a process that goes on when this one ends, and does not hear the Ctrl-C of this one's terminal.

    Whether it lives is asked with `lives(alive)`. Where the system has locks that a process inherits
    (POSIX), it holds one on the file `alive` from before it starts until it ends. Elsewhere the file names
    the process and the time it began; two processes never share both. From when this is entered there is
    no moment at which the process looks dead, also while its file moves to another folder.

    Args:
        alive: a file, made here.
    """
    if fcntl is not None:
        with alive.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

            def inheriting(
                alive: Path, command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]
            ) -> subprocess.Popen[bytes]:
                del alive  # it is the open file that counts
                passed = (file.fileno(),)
                return _started(command, stdout=output, env=env, start_new_session=True, pass_fds=passed)

            yield inheriting
        return
    alive.write_text(_identity(os.getpid()), encoding="ascii")  # until there is a process of its own
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)

    def named(
        alive: Path, command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        process = _started(
            command, stdout=output, env=env, creationflags=flags, start_new_session=not WINDOWS
        )
        scratch = alive.with_name(f".{alive.name}")
        scratch.write_text(_identity(process.pid), encoding="ascii")
        scratch.replace(alive)
        return process

    yield named


def _started(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    process: Any = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, **options)
    return process


def lives(alive: Path) -> bool:
    """Whether the process of `start_apart` has not ended yet."""
    try:
        if fcntl is None:
            told = alive.read_text(encoding="ascii")
            return bool(told) and told == _identity(int(told.partition(" ")[0]))
        with alive.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ValueError):
        pass
    return False


def _identity(pid: int) -> str:
    """A process's number and when it began; empty if it has ended, also where nobody asked yet how."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return f"{pid} {process.create_time():.2f}"
    except psutil.Error:
        return ""


def exists(pid: int) -> bool:
    """Whether a process with this number runs; True where that cannot be known."""
    if not 0 < pid < 2**31:
        return True
    import psutil  # os.kill(pid, 0) would send Ctrl-C on Windows

    try:
        return psutil.pid_exists(pid)
    except (psutil.Error, OSError, OverflowError):
        return True


def become(command: Sequence[str]) -> int:
    """Run a program in the place of this one, and return its exit code where the system makes that two.

    On Windows the shell would go on at once while the program runs, so this process waits for it.
    """
    if WINDOWS or not hasattr(os, "execv"):
        try:
            return subprocess.call(command)
        except KeyboardInterrupt:
            return 130
    os.execv(command[0], list(command))
    return 0  # only where a test replaced execv


def on_signal(name: str, action: Callable[[int, FrameType | None], object] | None) -> bool:
    """Have a function called when a signal comes; False where the system has no signal of that name.

    Args:
        name: such as "SIGTERM".
        action: gets the number and the frame; None ignores the signal.
    """
    number = getattr(signal, name, None)
    if number is None:
        return False
    signal.signal(number, signal.SIG_IGN if action is None else action)
    return True


# Files.


def swap(one: Path, other: Path) -> bool:
    """Swap two folders in one step, so that neither is ever missing; False where that is not possible."""
    if WINDOWS:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux
        at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return libc.renameat2(at_cwd, names[0], at_cwd, names[1], exchange) == 0
    if hasattr(libc, "renamex_np"):  # macOS
        return libc.renamex_np(names[0], names[1], 2) == 0  # RENAME_SWAP
    return False


def flush_folder(path: Path) -> None:
    """Make the names in a folder last; only POSIX systems can, and need to.

    Raises:
        OSError: the folder cannot be flushed.
    """
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all() -> None:
    """Bring everything that was written to the disk; nothing happens where the system cannot (Windows)."""
    if hasattr(os, "sync"):
        os.sync()


def content(path: Path, most: int, *, links: bool = True) -> bytes:
    """The bytes of a file, if it is one: a pipe would be waited for, and a device read, for ever.

    Args:
        path: of the file; most: bytes that are accepted; links: whether it may be a symbolic link.

    Raises:
        OSError: it is no regular file, is larger, or cannot be read.
    """
    found = path.stat() if links else path.lstat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EINVAL, f"it is larger than {most:,} bytes", str(path))
    return data


def append(path: Path, data: bytes, *, flush: bool = False) -> None:
    """Add bytes to the end of a file in one write, so that those of several processes do not mix.

    Args:
        path: of the file, made where there is none; data: as it shall lie there, on Windows too;
        flush: to the disk, before this returns.

    Raises:
        OSError: it cannot be written, or not wholly.
    """
    binary = getattr(os, "O_BINARY", 0)  # Windows would make two characters of the end of a line
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | binary, 0o644)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def namespace() -> str:
    """Tells containers of one machine apart, in which process numbers differ; empty where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (not a path: "pid:[4026531836]")
    except (OSError, AttributeError):
        return ""


# Names.

_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def is_plain_name(name: str) -> bool:
    """Whether a name from elsewhere is that of one file in a folder on every system, and leads nowhere else.

    Windows takes `C:x.wav` for a file of another drive and `\\\\` for a separator, and `nul.wav` is a device
    there, so all of them are refused everywhere: what one system writes shall be read on the others.

    >>> is_plain_name("rain.wav"), is_plain_name("C:rain.wav"), is_plain_name("..\\\\rain.wav")
    (True, False, False)
    """
    if name in ("", ".", "..") or _DEVICES.fullmatch(name):
        return False
    return PurePosixPath(name).name == name == PureWindowsPath(name).name
