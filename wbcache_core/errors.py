# SPDX-License-Identifier: BSD-3-Clause
"""Every exception that wbcache raises on purpose.

    WbcacheError
      ConfigError            a parameter is missing, unknown or invalid
      DeviceError            origin or log: cannot be opened, read, written, synced
        DeviceInUseError     another server holds it
        DeviceLostError      it went away, perhaps with what it had not synced
          NoConnectionError  there is no connection to an NBD origin, and none can be made
        SyncFailedError      of the log: nobody can find out what is durable
      LogRefusedError        the log cannot be served with this origin
        ForeignLogError      neither blank nor a wbcache log
        LogVersionError      written by a newer wbcache
        SuperblockError      ours, but no superblock is valid
        WrongPairError       log and origin do not belong together (any more)
        OtherLogError        the origin lacks what another log holds for it
        DamagedLogError      the durable part of the log has a hole, or its end is missing
        CopyError            it is the copy of a standby, and nobody has said that it takes over
        UncommittedError     what comes next is only in the ring that a killed server left
      PeerRefusedError       the log of a peer cannot be a copy of this one
        PartedError          it has commits that this server does not have
      SupersededError        another server has taken over the volume
      LogFullError           the log has no room for what a command would append
      NoThreadError          a thread cannot be started
      WorkerLostError        the process that writes to the origin ended or hangs; its batch is repeated
      RequestError           one request of a client cannot be served
        OutOfRangeError      it reaches beyond the end of the volume
        ReadOnlyError        the volume cannot be written
        DamagedPageError     a page in the log fails its checksum
        LogFailedError       the log device failed: the volume takes no more writes
          CommitFailedError  a write to the log failed; it is retried
        WritesEndedError     a write failed half-way: the volume takes no more writes
        OriginFailedError    the origin fails and the log cannot take more
        StoppedError         the server is shutting down
        VolumeReplacedError  something else has taken the volume's place: it starts over there; no client sees this
        ShipmentError        what an owner sent to a standby is not taken
        NotOwnerError        whoever sent it is not the owner, or not any more
        ExposedError         it came without TLS, where others may read and change it
        SnapshotEndedError   writers needed the log space that kept the snapshot
      MomentError            a past moment cannot be opened or tagged
        MalformedMomentError it is not written as one
        OutsideWindowError   it is in the future, or the log does not cover it (any more)
        ClockError           the clock was set, so that a time or an age has no single answer
        PassingNameError     its name will mean another moment a little later
        ExportNameError      there is no such export
        TagError             a tag: it does not exist, its name is taken or not allowed, or there are too many
      ControlError           a control socket cannot be made or used, or a request through it is refused
      FormatError            bytes that are not what a format module expects
        LaterVersionError    a segment descriptor that a newer wbcache wrote

Each message says what happened, where, and what the user can do.
"""

import errno


class WbcacheError(Exception):
    """Root of the tree. `errno_value` is the errno for a client of the volume."""

    errno_value = errno.EIO


class ConfigError(WbcacheError):
    errno_value = errno.EINVAL


class DeviceError(WbcacheError):
    """A system call on origin or log failed; carries the system's errno."""

    def __init__(self, message: str, errno_value: int = errno.EIO) -> None:
        super().__init__(message)
        self.errno_value = errno_value


class DeviceLostError(DeviceError):
    """What was written and not synced may be lost: all of it has to be written again."""


class NoConnectionError(DeviceLostError):
    """There is no connection to an NBD origin, and none can be made."""


class SyncFailedError(DeviceError):
    """Of the log. Another sync does not help: the kernel may have dropped what it could not write."""


class DeviceInUseError(DeviceError):
    def __init__(self, message: str) -> None:
        super().__init__(message, errno.EBUSY)


class LogRefusedError(WbcacheError):
    errno_value = errno.EINVAL


class ForeignLogError(LogRefusedError):
    pass


class LogVersionError(LogRefusedError):
    pass


class SuperblockError(LogRefusedError):
    pass


class WrongPairError(LogRefusedError):
    pass


class OtherLogError(LogRefusedError):
    pass


class DamagedLogError(LogRefusedError):
    pass


class CopyError(LogRefusedError):
    pass


class UncommittedError(LogRefusedError):
    pass


class PeerRefusedError(WbcacheError):
    pass


class PartedError(PeerRefusedError):
    def __init__(self, message: str, lsn: int = 0) -> None:
        """From that LSN on the peer has what this server does not."""
        super().__init__(message)
        self.lsn = lsn


class SupersededError(WbcacheError):
    pass


class LogFullError(WbcacheError):
    errno_value = errno.ENOSPC


class NoThreadError(WbcacheError):
    errno_value = errno.ENOMEM


class WorkerLostError(WbcacheError):
    pass


class RequestError(WbcacheError):
    pass


class OutOfRangeError(RequestError):
    errno_value = errno.EINVAL


class ReadOnlyError(RequestError):
    errno_value = errno.EROFS


class DamagedPageError(RequestError):
    """`lsn` is that of the page, or of the descriptor of its segment; `block` that of the page, where it is known."""

    def __init__(self, message: str, lsn: int, block: int | None = None) -> None:
        super().__init__(message)
        self.lsn = lsn
        self.block = block


class LogFailedError(RequestError):
    def __init__(self, message: str, errno_value: int = errno.EIO) -> None:
        super().__init__(message)
        self.errno_value = errno_value


class CommitFailedError(LogFailedError):
    """Only a write failed, so it is known what is durable, and the next request may succeed."""


class WritesEndedError(RequestError):
    pass


class OriginFailedError(RequestError):
    def __init__(self, message: str, errno_value: int = errno.EIO) -> None:
        super().__init__(message)
        self.errno_value = errno_value


class StoppedError(RequestError):
    errno_value = errno.ESHUTDOWN


class VolumeReplacedError(RequestError):
    """Nothing that counts was done: the request has to be carried out on what took the volume's place."""


class ShipmentError(RequestError):
    errno_value = errno.EINVAL


class NotOwnerError(RequestError):
    errno_value = errno.EPERM


class ExposedError(RequestError):
    errno_value = errno.EPERM


class SnapshotEndedError(RequestError):
    errno_value = errno.ESTALE


class MomentError(WbcacheError):
    errno_value = errno.EINVAL


class MalformedMomentError(MomentError):
    pass


class OutsideWindowError(MomentError):
    pass


class ClockError(MomentError):
    pass


class PassingNameError(MomentError):
    pass


class ExportNameError(MomentError):
    pass


class TagError(MomentError):
    pass


class ControlError(WbcacheError):
    errno_value = errno.EINVAL


class FormatError(WbcacheError):
    pass


class LaterVersionError(FormatError):
    """`uuid` is that of the volume that the descriptor belongs to."""

    def __init__(self, message: str, uuid: bytes = b"") -> None:
        super().__init__(message)
        self.uuid = uuid


# NBD has only a few errno values; a client sees any other as EINVAL, which would blame the client.
_NBD_ERRNO = frozenset(
    (errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW, errno.ENOTSUP, errno.ESHUTDOWN)
)


def errno_for_client(error: BaseException) -> int:
    """The one place that decides which errno a client gets for a failed request."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    value = error.errno_value if isinstance(error, WbcacheError) else errno.EIO
    if value in (errno.EROFS, errno.EACCES):
        return errno.EPERM
    if value in (errno.EDQUOT, errno.EFBIG):
        return errno.ENOSPC
    return value if value in _NBD_ERRNO else errno.EIO
