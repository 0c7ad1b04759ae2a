"""Sessions of applications: options, a session class, and every session of the process at once."""

import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import mcd_graph

FEED = {"ids": np.array([[1, 2, 3]]), "mask": np.ones((1, 3), np.int64)}


@pytest.fixture
def compressed(model: Path, out: Path) -> Path:
    mcd_graph.compress_model(model, out / "m.onnx")
    return out / "m.onnx"


@pytest.fixture(autouse=True)
def disabled() -> Iterator[None]:
    yield
    mcd_graph.disable()


def run(session: onnxruntime.InferenceSession) -> bytes:
    return session.run(None, FEED)[0].tobytes()


def test_options(model: Path, compressed: Path) -> None:
    expected = run(onnxruntime.InferenceSession(model))
    assert run(onnxruntime.InferenceSession(compressed, mcd_graph.session_options())) == expected
    own = onnxruntime.SessionOptions()
    own.intra_op_num_threads = 1
    assert mcd_graph.session_options(own, residency="decoded") is own
    assert own.get_session_config_entry("mcd.residency") == "decoded"
    assert mcd_graph.session_options(own) is own, "once more does no harm"
    assert run(onnxruntime.InferenceSession(compressed, own)) == expected
    assert run(onnxruntime.InferenceSession(model, own)) == expected, "plain models open as well"


def test_session(model: Path, compressed: Path, out: Path) -> None:
    expected = run(onnxruntime.InferenceSession(model))
    own = onnxruntime.SessionOptions()
    providers = ["CPUExecutionProvider"]
    for session in (
        mcd_graph.InferenceSession(compressed),
        mcd_graph.InferenceSession(str(compressed), own, providers),
        mcd_graph.InferenceSession(compressed, sess_options=own, providers=providers),
        mcd_graph.InferenceSession(model),
    ):
        assert isinstance(session, onnxruntime.InferenceSession)
        assert run(session) == expected
    mcd_graph.compress_model(model, out / "inline.onnx", inline=True)
    assert run(mcd_graph.InferenceSession((out / "inline.onnx").read_bytes())) == expected


def test_every_session_of_the_process(model: Path, compressed: Path) -> None:
    from onnxruntime import InferenceSession  # noqa: PLC0415 - as libraries have it, imported before

    original = InferenceSession.__init__
    expected = run(InferenceSession(model))
    with pytest.raises(Exception, match="MatmulCompressDequant"):
        InferenceSession(compressed)
    threads = [threading.Thread(target=mcd_graph.enable) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = onnxruntime.SessionOptions()
    mcd_graph.session_options(own)
    for session in (
        InferenceSession(compressed),
        InferenceSession(compressed, own, ["CPUExecutionProvider"]),
        InferenceSession(compressed, providers=["CPUExecutionProvider"], sess_options=own),
        mcd_graph.InferenceSession(compressed),
        InferenceSession(model),
    ):
        assert run(session) == expected
    mcd_graph.disable()
    mcd_graph.disable()
    assert InferenceSession.__init__ is original
    with pytest.raises(Exception, match="MatmulCompressDequant"):
        InferenceSession(compressed)


def test_what_another_library_changed_stays(model: Path, compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who wraps the class after us is not undone with us."""
    seen = []
    mcd_graph.enable()
    ours = onnxruntime.InferenceSession.__init__

    def theirs(self: object, *args: object, **kwargs: object) -> None:
        seen.append(args)
        ours(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "__init__", theirs)
        mcd_graph.disable()
        with pytest.raises(Exception, match="MatmulCompressDequant"):
            onnxruntime.InferenceSession(compressed)
        mcd_graph.enable()
        assert run(onnxruntime.InferenceSession(compressed)) == run(onnxruntime.InferenceSession(model))
        assert len(seen) == 3


def test_errors_are_those_of_onnxruntime(tmp_path: Path) -> None:
    mcd_graph.enable()
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"x\.onnx"):
        onnxruntime.InferenceSession(tmp_path / "x.onnx")


def test_a_residency_that_there_is_not(compressed: Path) -> None:
    """It is said where it is given, and not when somebody opens a session later."""
    for refuse in (
        mcd_graph.enable, mcd_graph.session_options, functools.partial(mcd_graph.InferenceSession, compressed)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="'auto', 'compressed', 'decoded', 'plain', not 'Decoded'"):
            refuse(residency="Decoded")  # type: ignore[operator]
    with pytest.raises(Exception, match="MatmulCompressDequant"):
        onnxruntime.InferenceSession(compressed)


def custom_operators(session: onnxruntime.InferenceSession, folder: Path) -> int:
    """Return how many operators of our domain a session's model has, as it says in the profile of a run."""
    return session.end_profiling() and sum(
        "MatmulCompressDequant" in path.read_text() for path in folder.glob("profile*.json")
    )


def test_plain_residency(model: Path, compressed: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime runs the original again, from memory, and has never heard of the custom operator."""
    expected = run(onnxruntime.InferenceSession(model))
    mcd_graph.compress_model(model, out / "inline.onnx", inline=True)
    monkeypatch.setattr("mcd_graph.runtime.sessions.get_library_path", lambda: pytest.fail("not needed"))
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(out / "profile")
    for source in (compressed, str(compressed), (out / "inline.onnx").read_bytes(), model, model.read_bytes()):
        session = mcd_graph.InferenceSession(source, options, residency="plain")
        assert run(session) == expected
        assert custom_operators(session, out) == 0
    assert list(out.glob("profile*.json"))
    mcd_graph.enable(residency="plain")
    assert run(onnxruntime.InferenceSession(compressed)) == expected
    assert run(onnxruntime.InferenceSession(model)) == expected
    with pytest.raises(ValueError, match=r"mcd_graph\.enable"):
        mcd_graph.session_options(residency="plain")


def test_plain_residency_of_what_cannot_be_opened(compressed: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"x\.onnx"):
        mcd_graph.InferenceSession(tmp_path / "x.onnx", residency="plain")
    data = compressed.with_suffix(".onnx_data")
    content = bytearray(data.read_bytes())
    content[200] ^= 1
    data.write_bytes(content)
    with pytest.raises(mcd_graph.InputError, match="is damaged"):
        mcd_graph.InferenceSession(compressed, residency="plain")
    with pytest.raises(mcd_graph.InputError, match="is damaged"):
        mcd_graph.restore_model(compressed, tmp_path / "inline.onnx", inline=True)
    assert not (tmp_path / "inline.onnx").exists()


def test_settings_of_enable(compressed: Path) -> None:
    own = onnxruntime.SessionOptions()
    mcd_graph.enable(residency="decoded")
    onnxruntime.InferenceSession(compressed, own)
    assert own.get_session_config_entry("mcd.residency") == "decoded"
    mcd_graph.enable()
    session = mcd_graph.InferenceSession(compressed, residency="compressed")
    assert session.get_session_options().get_session_config_entry("mcd.residency") == "compressed"
