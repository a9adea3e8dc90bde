"""Folders for sockets, whose addresses may be only so long."""

import os
import tempfile

LONGEST_ADDRESS = 100  # characters of a socket's path; Linux allows 107, macOS 103
LONGEST_NAME = "/momos-12345678/logger.new"  # a new folder in it, and a socket there


def short() -> str:
    """A folder for temporary files in which a new folder can hold a socket.

    Raises OSError where there is none.
    """
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        address = len(os.fsencode(folder)) + len(LONGEST_NAME)
        if address <= LONGEST_ADDRESS and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError("no folder for temporary files has a path short enough for a socket")
