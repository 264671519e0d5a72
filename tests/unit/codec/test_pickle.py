"""`format="pickle"`: any picklable object, read only where it was declared and signed (STORE-06, SEC-06)."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Protocol

import pytest

from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io.codec import codec_for

KEY = b"k" * 32


class Anything:
    def __init__(self, number: int) -> None:
        self.number = number


class Sized(Protocol):
    def size(self) -> int: ...


class Unloadable:
    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_any_picklable_object_comes_back_as_a_copy() -> None:
    """STORE-06"""
    codec = codec_for(Anything, format="pickle", key=KEY)
    value = Anything(3)
    encoded = codec.prepare(value)
    loaded = codec.decode(encoded.data)
    assert isinstance(loaded, Anything)
    assert loaded.number == 3
    assert isinstance(encoded.value, Anything)
    assert encoded.value is not value
    assert codec.decode(codec.encode(value)) is not loaded
    assert codec.supports() is None
    assert codec_for(threading.Lock, format="pickle", key=KEY).supports() is None


def test_a_pickled_value_has_no_fingerprint() -> None:
    """CACHE-05"""
    codec = codec_for(None, format="pickle", key=KEY)
    encoded = codec.prepare({1, 2})
    assert encoded.fingerprint is None
    assert codec.fingerprint(encoded.data) is None
    chunk = codec.encode_chunk([Anything(1), 2])
    assert codec.decode_chunk(chunk)[1] == 2
    assert codec.canonical_items(chunk) is None


@pytest.mark.parametrize("value", [threading.Lock(), lambda: None, Unloadable()], ids=["lock", "lambda", "unloadable"])
def test_what_cannot_be_pickled_is_refused(value: object) -> None:
    """STORE-06"""
    with pytest.raises(StorageError, match="cannot be pickled") as caught:
        codec_for(None, format="pickle", key=KEY).encode(value)
    assert caught.value.hint


def test_a_declared_class_is_checked() -> None:
    """STORE-04"""
    with pytest.raises(StorageError, match="expected Anything, found int"):
        codec_for(Anything, format="pickle", key=KEY).encode(1)
    codec_for(float, format="pickle", key=KEY).encode(1)
    codec_for(list[int], format="pickle", key=KEY).encode([1])
    codec_for(Sized, format="pickle", key=KEY).encode([1])


def test_nothing_unsigned_is_unpickled(tmp_path: Path) -> None:
    """SEC-06"""
    trace = tmp_path / "ran"
    bare = pickle.dumps(Bomb(trace))
    codec = codec_for(None, format="pickle", key=KEY)
    signed = codec_for(None, format="pickle", key=b"another key").encode(1)
    for data in (bare, b"P" + bare, b"P" + b"\0" * 32 + bare, signed[:33] + bare, b"P", b"", b" 1"):
        with pytest.raises(StorageError):
            codec.decode(data)
        with pytest.raises(StorageError):
            codec.decode_chunk(data)
        with pytest.raises(StorageError):
            codec_for(int).decode(data if data != b" 1" else b"P1")
    assert not trace.exists()


def test_every_changed_byte_is_noticed() -> None:
    """SEC-06"""
    codec = codec_for(None, format="pickle", key=KEY)
    data = codec.encode("value")
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(StorageError):
            codec.decode(bytes(changed))


def test_of_several_keys_the_first_signs_and_all_verify() -> None:
    """SEC-01"""
    old, new = b"old" * 11, b"new" * 11
    stored = codec_for(None, format="pickle", key=old).encode(1)
    rotated = codec_for(None, format="pickle", key=[new, old])
    assert rotated.decode(stored) == 1
    assert codec_for(None, format="pickle", key=new).decode(rotated.encode(2)) == 2
    with pytest.raises(StorageError, match="signed"):
        codec_for(None, format="pickle", key=new).decode(stored)


@pytest.mark.parametrize("key", [b"", (), [b"a", b""]])
def test_pickle_without_a_key_is_a_config_error(key: bytes | list[bytes]) -> None:
    """G-05"""
    with pytest.raises(ConfigError, match="key"):
        codec_for(None, format="pickle", key=key)


def test_an_unknown_format_is_a_config_error() -> None:
    """G-05"""
    with pytest.raises(ConfigError, match='"json" or "pickle"'):
        codec_for(None, format="yaml")  # pyright: ignore[reportArgumentType]
