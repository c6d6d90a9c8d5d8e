"""CURVE key pairs, the identity of a node on the compute channel: one file per user and per slave; a master's is new.

Nodes call it at their start. A secret key leaves this module only as `KeyPair.secret`; no repr, no log and no error
shows it. The file has the format of ZeroMQ's own certificates, so `zmq.auth.load_certificate` reads it too. ZeroMQ is
imported on first use, because clients of the control channel do not need it.
"""

import contextlib
import re
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.transport import private_files

#: a key in Z85, ZeroMQ's printable form of 32 bytes
Z85_KEY: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
#: a token for the control channel
TOKEN: Final = re.compile(r"[!-~]{16,256}")

_LINE: Final = re.compile(rb'\s*(public|secret)-key\s*=\s*"([^"]*)"\s*')
_FILE: Final = """\
#   ZeroMQ CURVE **Secret** Certificate, written by concurrent_nb
#   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.

metadata
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""


class KeyPair(NamedTuple):
    """A public key and its secret key, each 40 bytes of Z85."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r}, secret=<hidden>)"


def fresh() -> KeyPair:
    """Create a new pair."""
    import zmq

    return KeyPair(*zmq.curve_keypair())


def fresh_token() -> str:
    """Create a new token for a role on the control channel: 256 random bits, as text."""
    return secrets.token_urlsafe(32)


def default_path() -> Path:
    """Return the path of this user's key: in Jupyter's data folder, or a temporary folder if that is read-only."""
    from jupyter_core.paths import jupyter_data_dir

    with contextlib.suppress(RuntimeError):  # a user unknown to the system, and no HOME
        folder = Path(jupyter_data_dir()) / "concurrent_nb" / "keys"
        if (folder / "user.key").exists() or private_files.is_writable(folder):
            return folder / "user.key"
    return private_files.make_temporary_folder() / "keys" / "user.key"


def load_or_create(path: Path | str | None = None) -> KeyPair:
    """Return the pair in a file; create file and pair if there is none. Without a path: this user's key file.

    Processes that call this at the same time get the same pair. Raises AccessRefused if others can read file or folder,
    ConfigurationError if the file is damaged, or cannot be read or written.
    """
    path = default_path() if path is None else Path(path)
    private_files.make_folder(path.parent)
    private_files.check_folder(path.parent)
    try:
        return _read(path)
    except FileNotFoundError:
        # If another process is faster, its file stays and ours is dropped; both read the file.
        private_files.create_private(path, _encode(fresh()))
        return _read(path)


def _read(path: Path) -> KeyPair:
    lines = map(_LINE.fullmatch, private_files.read_private(path).splitlines())
    found = {match[1]: match[2] for match in lines if match is not None}
    pair = KeyPair(found.get(b"public", b""), found.get(b"secret", b""))
    for key in pair:
        if Z85_KEY.fullmatch(key) is None:
            raise _damaged(path, "it does not contain a public and a secret key of 40 characters each")
    if _public_of(pair.secret) != pair.public:
        raise _damaged(path, "its public key does not belong to its secret key (they may be swapped)")
    return pair


def _public_of(secret: bytes) -> bytes:
    import zmq

    try:
        return zmq.curve_public(secret)
    except zmq.ZMQError:
        return b""


def _damaged(path: Path, what: str) -> ConfigurationError:
    text = f"key file {path} is damaged: {what}. Put back a copy, or delete it: the next start makes a new key"
    return ConfigurationError(text)


def _encode(pair: KeyPair) -> bytes:
    return _FILE.format(public=pair.public.decode(), secret=pair.secret.decode()).encode()
