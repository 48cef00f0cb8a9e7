"""Runs a program under the system call rules of a systemd unit, without systemd as the first process.

    deploy-confined.py UNIT [--no-new-executable-memory] PROGRAM [ARGUMENT…]

Reads SystemCallFilter=, SystemCallErrorNumber= and RestrictAddressFamilies= of UNIT, has systemd-analyze expand the sets, and
installs the same filter with libseccomp. `--no-new-executable-memory` adds what MemoryDenyWriteExecute=yes adds.
"""

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
NOT_THERE = -1
NOT_EQUAL, EQUAL, MASKED = 1, 4, 7
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
PR_SET_NO_NEW_PRIVS = 38


class Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def settings(unit, name):
    """The values of a setting, line by line."""
    with open(unit, encoding="utf-8") as lines:
        return re.findall(rf"^{name}=(.*)$", lines.read(), re.MULTILINE)


def expanded(name):
    """The system calls of a set, or the one that is called so."""
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True).stdout
    words = [line.strip() for line in listed.splitlines()[1:]]
    words = [word for word in words if word and not word.startswith("#")]
    return set().union(*(expanded(word) for word in words))


def allowed(unit):
    """What the unit's filters leave, in their order."""
    calls = expanded("@default")
    for line in settings(unit, "SystemCallFilter"):
        named = set().union(*(expanded(name) for name in line.removeprefix("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


class Filter:
    """A filter that refuses what nobody has allowed."""

    def __init__(self, library, refusal):
        self.library, self.refusal = library, refusal
        self.context = library.seccomp_init(refusal)
        if not self.context:
            raise OSError("seccomp_init failed")

    def rule(self, action, call, *comparisons):
        number = self.library.seccomp_syscall_resolve_name(call.encode())
        if number == NOT_THERE:
            return
        array = (Comparison * len(comparisons))(*comparisons)
        code = self.library.seccomp_rule_add_array(self.context, action, number, len(comparisons), array)
        # EACCES and EEXIST: the rule says what holds anyway, or is there already.
        if code not in (0, -errno.EACCES, -errno.EEXIST) and number >= 0:
            raise OSError(-code, f"no rule for {call}")

    def load(self):
        code = self.library.seccomp_load(self.context)
        if code != 0:
            raise OSError(-code, "seccomp_load failed")


def main(unit, arguments):
    without_new_code = arguments[0] == "--no-new-executable-memory"
    program = arguments[1:] if without_new_code else arguments
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    for function in ("seccomp_load", "seccomp_rule_add_array"):
        getattr(library, function).argtypes = None
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison),
    ]
    calls = allowed(unit)
    (number,) = settings(unit, "SystemCallErrorNumber")
    rules = Filter(library, ERRNO | getattr(errno, number))
    for call in sorted(calls - {"socket"}):
        rules.rule(ALLOW, call)
    for family in settings(unit, "RestrictAddressFamilies")[0].split():
        rules.rule(ALLOW, "socket", Comparison(0, EQUAL, getattr(socket, family), 0))
    rules_of_memory = Filter(library, ALLOW) if without_new_code else None
    if rules_of_memory:
        refusal = ERRNO | errno.EPERM
        both, code = PROT_WRITE | PROT_EXEC, PROT_EXEC
        rules_of_memory.rule(refusal, "mmap", Comparison(2, MASKED, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            rules_of_memory.rule(refusal, call, Comparison(2, MASKED, code, code))
        rules_of_memory.rule(refusal, "shmat", Comparison(2, MASKED, SHM_EXEC, SHM_EXEC))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
    # Loading needs calls that the first filter may refuse.
    if rules_of_memory:
        rules_of_memory.load()
    rules.load()
    os.execvp(program[0], program)


main(sys.argv[1], sys.argv[2:])
