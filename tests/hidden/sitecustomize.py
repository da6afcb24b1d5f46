"""Makes this Python lack what macOS or Windows lack; read at its start where PYTHONPATH names this folder.

Only our own code is kept from `fcntl` and `resource`: libraries have branches for each system, which they
choose by the system's name.
"""

import builtins
import ctypes
import io
import os
import signal
import sys

_OURS = ("qmoe_core", "dashboard", "pages", "__main__", "__page__")
_import, _open, _readlink = builtins.__import__, io.open, os.readlink

for _name in ("sched_getaffinity", "sched_setaffinity", "nice", "getloadavg", "mkfifo"):
    delattr(os, _name)
if hasattr(os, "process_cpu_count"):  # of Python 3.13, which would ask for what is hidden
    os.process_cpu_count = os.cpu_count
for _name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM"):
    delattr(signal, _name)


def _without_modules(name, globals=None, locals=None, fromlist=(), level=0):
    if name in ("fcntl", "resource", "pwd", "grp", "termios") and level == 0:
        who = (globals or {}).get("__name__", "")
        if who.partition(".")[0] in _OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, globals, locals, fromlist, level)


def _without_proc(file, *arguments, **named):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return _open(file, *arguments, **named)


def _without_namespaces(path, *arguments, **named):
    if str(path).startswith("/proc/self/ns"):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return _readlink(path, *arguments, **named)


class _OldLibrary(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("renameat2", "renamex_np"):
            raise AttributeError(name)
        return super().__getattr__(name)


builtins.__import__ = _without_modules
io.open = _without_proc  # what pathlib calls; libraries such as psutil call the builtin
os.readlink = _without_namespaces
ctypes.CDLL = _OldLibrary
sys.stdlib_hidden = True
