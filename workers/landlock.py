"""Landlock: after `restrict`, this process and its children reach only the named files and no TCP port.

Source: Linux kernel documentation, "Landlock: unprivileged access control" (userspace-api/landlock). Python has no
wrapper, so the three system calls are made through libc. What a kernel does not offer yet is left out of the rules
according to its ABI number, as that document advises; the caller records the ABI with the job.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444  # system call numbers are the same on every architecture since 5.13
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_ABI = (1 << 13) - 1  # execute, read, write, remove and make of every kind
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # what a rule on a single file may name
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets and signals stay inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """What stays reachable: trees (or files) to read and execute, and trees to write as well."""

    read: Sequence[Path]
    write: Sequence[Path]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Give the kernel's Landlock ABI number; 0 where it offers none."""
    version: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(0, version)


def _handled(version: int) -> int:
    rights = _FIRST_ABI
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if version >= since else 0
    return rights


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _create(libc: ctypes.CDLL, version: int) -> int:
    fields = [_handled(version)]
    if version >= 4:
        fields.append(_TCP)
    if version >= 6:
        fields.append(_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    result: int = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    return _checked(result, "landlock_create_ruleset")


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            rights &= _ON_FILES
        rule = struct.pack("=Qi", rights, target)
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0)), f"landlock_add_rule {path}")
    finally:
        os.close(target)


def restrict(paths: Paths) -> int:
    """Restrict this process for good and give the ABI in force.

    The caller must have set no_new_privs before.

    Raises:
        OSError: the kernel offers no Landlock, or refused a rule; nothing is restricted then.
    """
    libc, version = _libc(), abi()
    if version == 0:
        raise OSError(0, "the kernel offers no Landlock")
    ruleset = _create(libc, version)
    try:
        for path in paths.read:
            _allow(libc, ruleset, path, _READ)
        for path in paths.write:
            _allow(libc, ruleset, path, _handled(version) & ~_EXECUTE)
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return version
