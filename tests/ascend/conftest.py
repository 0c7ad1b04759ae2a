"""The stand-in, opened as a program opens it, and closed again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from acl_runtime import Acl


@pytest.fixture
def unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Acl]:
    """The library before ``aclInit``, following the document."""
    monkeypatch.delenv("MCD_ACLNN_STRICT", raising=False)
    acl = Acl(tmp_path)
    yield acl
    acl.mcdAclnnFail(b"")
    acl.aclFinalize()  # fails where a test has done it already


@pytest.fixture
def acl(unopened: Acl) -> Acl:
    """The library with the device set, following the document."""
    unopened.open()
    return unopened


@pytest.fixture
def strict_acl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Acl]:
    """The library with the device set, behaving as the public implementation."""
    monkeypatch.setenv("MCD_ACLNN_STRICT", "1")
    acl = Acl(tmp_path)
    acl.open()
    yield acl
    acl.aclFinalize()
