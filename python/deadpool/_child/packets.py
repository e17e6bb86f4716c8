"""Messages with descriptors, over a pair of sockets.

``socket.send_fds`` and ``socket.recv_fds`` take flags and ignore them.
"""

from __future__ import annotations

import array
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# More than a message has, and more descriptors than the kernel lets through at once.
_MOST_BYTES = 1 << 16
_MOST_DESCRIPTORS = 256


def send(sender: socket.socket, message: bytes, fds: Sequence[int]) -> None:
    """Send a message. Does not block.

    :raises OSError: If it can't be sent.
    """
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sender.sendmsg([message], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(receiver: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next message and its descriptors, which no program that is run inherits. Blocks.

    :returns: An empty message if the other side is gone.
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * fds.itemsize)
    message, controls, _, _ = receiver.recvmsg(_MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in controls:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return message, list(fds)
