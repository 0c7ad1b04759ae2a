"""Two files, both whole or neither: alignment, overwriting, death at every step, full disks."""

import contextlib
import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from samples import digests, text_model, write, write_external
from saved import small_disk, tensors

from mcd_graph import InputError
from mcd_graph.isolation import death_of
from mcd_graph.model import saving
from mcd_graph.model.data_files import DATA_FILE_KEY
from mcd_graph.model.files import write_text
from mcd_graph.model.layout import ALIGNMENT, TensorLayout
from mcd_graph.model.loading import load_model, read_proto
from mcd_graph.model.replacement import put_new
from mcd_graph.model.saving import ModelWriter
from mcd_graph.model.temporaries import MARK


def save(source: Path, destination: Path, **options: Any) -> None:
    with ModelWriter(destination, **options) as writer:
        writer.commit(load_model(source))


def data_name(model: Path) -> str:
    """Return the one data file that a model refers to."""
    proto = read_proto(model)
    (name,) = {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}
    return str(name)


@pytest.mark.parametrize("external", [False, True])
def test_layout(model: Path, out: Path, external: bool) -> None:
    source = write_external(text_model(), model.parent / "ext.onnx", "ext.bin") if external else model
    save(source, out / "m.onnx")
    assert sorted(path.name for path in out.iterdir()) == ["m.onnx", "m.onnx_data"]
    size = (out / "m.onnx_data").stat().st_size
    end = 0
    for tensor in read_proto(out / "m.onnx").graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert len(tensor.raw_data) < ALIGNMENT
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(entries["offset"]), int(entries["length"])
        assert offset % ALIGNMENT == 0
        assert end <= offset < end + ALIGNMENT, "tensors overlap or leave holes"
        end = offset + length
    assert end == size
    assert tensors(out / "m.onnx") == tensors(model)
    onnx.checker.check_model(str(out / "m.onnx"))


def test_everything_else_is_untouched(model: Path, out: Path) -> None:
    save(model, out / "m.onnx")
    before, after = read_proto(model), read_proto(out / "m.onnx")
    added = after.metadata_props.pop()
    assert (added.key, added.value) == (DATA_FILE_KEY, "m.onnx_data")
    for proto in (before, after):
        proto.graph.ClearField("initializer")
    assert before == after


def test_tensors_handed_over_early(model: Path, out: Path) -> None:
    loaded = load_model(model)
    values = np.arange(9000, dtype=np.int32)
    with ModelWriter(out / "m.onnx") as writer:
        tensor = writer.add("early", values)
        assert tensor.tobytes() == values.tobytes(), "it can be read before it is committed"
        loaded.graph.initializers["w_scale"].const_value = tensor
        loaded.graph.initializers["w_zero"].const_value = writer.add("small", values[:3])
        writer.commit(loaded)
    assert tensors(out / "m.onnx")["w_scale"] == values.tobytes()
    assert tensors(out / "m.onnx")["w_zero"] == values[:3].tobytes()


def test_refuses_to_overwrite(model: Path, out: Path) -> None:
    for name in ("m.onnx", "m.onnx_data"):
        (out / name).write_text("mine")
        with pytest.raises(FileExistsError, match="already exists") as caught:
            save(model, out / "m.onnx")
        assert caught.value.filename == str(out / name)
        assert digests(out).keys() == {name}
        assert (out / name).read_text() == "mine"
        (out / name).unlink()


def test_refuses_what_appears_meanwhile(model: Path, out: Path) -> None:
    with pytest.raises(FileExistsError), ModelWriter(out / "m.onnx") as writer:
        (out / "m.onnx").write_text("mine")
        writer.commit(load_model(model))
    assert (out / "m.onnx").read_text() == "mine"
    assert digests(out).keys() == {"m.onnx"}


def test_overwriting_keeps_the_name_of_the_data_file(model: Path, out: Path) -> None:
    save(model, out / "m.onnx")
    for _ in range(3):
        before = (out / "m.onnx_data").stat().st_ino
        save(model, out / "m.onnx", force=True)
        assert data_name(out / "m.onnx") == "m.onnx_data"
        assert digests(out).keys() == {"m.onnx", "m.onnx_data"}
        assert tensors(out / "m.onnx") == tensors(model)
        status = (out / "m.onnx_data").stat()
        assert status.st_ino != before, "whoever has the old file open still reads the old one"
        assert status.st_nlink == 1


def test_without_hard_links_the_data_file_has_a_number(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    save(model, out / "m.onnx")
    for expected in ("m.2.onnx_data", "m.onnx_data", "m.2.onnx_data"):
        save(model, out / "m.onnx", force=True)
        assert data_name(out / "m.onnx") == expected
        assert digests(out).keys() == {"m.onnx", expected}
        assert tensors(out / "m.onnx") == tensors(model)


def test_without_hard_links_what_appeared_stays(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (out / "temporary").write_bytes(b"ours")
    (out / "model").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        put_new(out / "temporary", out / "model")
    assert (out / "model").read_bytes() == b"somebody's"


def test_a_data_file_of_another_name(model: Path, out: Path) -> None:
    for force in (False, True, True):
        save(model, out / "m.onnx", force=force, data_name="weights.bin")
        assert data_name(out / "m.onnx") == "weights.bin"
        assert digests(out).keys() == {"m.onnx", "weights.bin"}
        assert tensors(out / "m.onnx") == tensors(model)
    (out / "mine.bin").write_text("mine")
    before = digests(out)
    for name, force in (("mine.bin", False), ("mine.bin", True)):
        with pytest.raises(FileExistsError) as caught:
            save(model, out / "m.onnx", force=force, data_name=name)
        assert force == (caught.value.filename == str(out / name))
    assert digests(out) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/b", "b/", "m.onnx", "a\0b", "a\udcff", f"a{MARK}b"])
def test_names_that_a_data_file_cannot_have(model: Path, out: Path, name: str) -> None:
    with pytest.raises(InputError):
        save(model, out / "m.onnx", data_name=name)
    with pytest.raises(InputError, match="no data file"):
        save(model, out / "m.onnx", data_name="weights.bin", inline=True)
    assert digests(out) == {}


def test_a_model_whose_name_ends_like_another_is_not_one_that_mentions_it(model: Path, out: Path) -> None:
    save(model, out / "decoder_m.onnx")
    save(model, out / "m.onnx")
    for _ in range(2):
        save(model, out / "m.onnx", force=True)
        names = {"m.onnx", "m.onnx_data", "decoder_m.onnx", "decoder_m.onnx_data"}
        assert digests(out).keys() == names


def test_a_model_is_not_written_over_itself(model: Path) -> None:
    before = digests(model.parent)
    with pytest.raises(InputError, match="would overwrite the input"), ModelWriter(model, force=True, sources=[model]):
        pass
    link = model.parent / "link.onnx"
    link.symlink_to(model)
    with pytest.raises(InputError, match="would overwrite the input"), ModelWriter(link, force=True, sources=[model]):
        pass
    link.unlink()
    assert digests(model.parent) == before


def test_nor_over_the_data_of_its_source(model: Path, out: Path) -> None:
    source = write_external(text_model(), out / "a.onnx", "m.onnx_data")
    before = digests(out)
    with (
        pytest.raises(InputError, match="would overwrite the input"),
        ModelWriter(out / "m.onnx", force=True, sources=[source, out / "m.onnx_data"]),
    ):
        pass
    assert digests(out) == before


def test_nothing_is_left_without_a_commit(model: Path, out: Path) -> None:
    with ModelWriter(out / "m.onnx") as writer:
        writer.add("early", np.zeros(10000))
    with pytest.raises(RuntimeError, match="on purpose"), ModelWriter(out / "m.onnx") as writer:
        writer.add("early", np.zeros(10000))
        raise RuntimeError("on purpose")
    assert digests(out) == {}


@pytest.mark.parametrize("place", ["", "nowhere/m.onnx"])
def test_destinations_that_cannot_be(model: Path, out: Path, place: str) -> None:
    with pytest.raises(OSError, match="directory"):
        save(model, out / place)
    assert digests(out) == {}


# The steps of a commit that change what others see, in order; a run may die before each of them or after the last.
DEATHS = ["start", "data renamed", "model renamed", "old data removed"]
# And what follows where the old data had the name that the new data is to have.
DEATHS += ["data linked", "second model renamed", "first name removed"]


def die(source: Path, destination: Path, step: int) -> None:
    """Save a model, and end this process by SIGKILL before a step."""
    steps = depth = 0

    def count(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal steps, depth
            if steps == step and not depth:
                os.kill(os.getpid(), signal.SIGKILL)
            depth += 1
            result = function(*arguments, **options)
            depth -= 1
            steps += not depth
            return result

        return call

    with saving.ModelWriter(destination, force=True) as writer, pytest.MonkeyPatch.context() as patch:
        model = load_model(source)
        for owner, name in ((saving, "put_new"), (saving, "replace"), (Path, "unlink"), (Path, "hardlink_to")):
            patch.setattr(owner, name, count(getattr(owner, name)))
        writer.commit(model)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwriting"])
@pytest.mark.parametrize("step", range(len(DEATHS)), ids=DEATHS)
def test_killed_at_every_step(model: Path, out: Path, step: int, existing: bool) -> None:
    """The old model or the new one, whole; and the next run leaves no trace of the dead one."""
    old = write(text_model(w1=np.zeros((256, 128), np.int8)), model.parent / "old.onnx")
    destination = out / "m.onnx"
    if existing:
        save(old, destination)
    assert death_of(lambda: die(model, destination, step), seconds=60) == "SIGKILL"
    if step < 2:
        assert destination.exists() == existing
    if destination.exists():
        assert tensors(destination) == tensors(model if step >= 2 else old)
    save(model, destination, force=True)
    assert tensors(destination) == tensors(model)
    assert digests(out).keys() == {"m.onnx", data_name(destination)}


def test_a_run_that_died_before_its_model_appeared_needs_no_force(model: Path, out: Path) -> None:
    assert death_of(lambda: die(model, out / "m.onnx", 1), seconds=60) == "SIGKILL"
    assert "m.onnx_data" in digests(out), "the data file is in place, the model is not"
    save(model, out / "m.onnx")
    assert digests(out).keys() == {"m.onnx", "m.onnx_data"}


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwriting"])
@pytest.mark.parametrize("step", ["put_new", "replace", "sync_directory"])
def test_interrupted_behind_a_step(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    """Ctrl-C falls just behind a step of the commit: no data file is left that no model uses."""
    if existing:
        save(model, out / "m.onnx")
    original = getattr(saving, step)

    def interrupted(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model, out / "m.onnx", force=True)
    if step == "put_new" and not existing:
        assert digests(out) == {}
    else:
        assert tensors(out / "m.onnx") == tensors(model)
        assert digests(out).keys() == {"m.onnx", data_name(out / "m.onnx")}


@pytest.mark.parametrize("call", [1, 2, 3])
def test_interrupted_while_the_data_file_gets_its_name(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Behind the link, behind the second model file, behind its renaming: a whole model, and no other data file."""
    save(model, out / "m.onnx")
    calls = 0

    def interrupted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call_it(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            result = function(*arguments, **options)
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return result

        return call_it

    def rename_data(writer: ModelWriter, *arguments: Any) -> None:
        for module, name in ((TensorLayout, "relocate"), (saving, "sync"), (saving, "replace")):
            monkeypatch.setattr(module, name, interrupted(getattr(module, name)))
        original(writer, *arguments)

    original = ModelWriter._rename_data
    monkeypatch.setattr(ModelWriter, "_rename_data", rename_data)
    with pytest.raises(KeyboardInterrupt):
        save(model, out / "m.onnx", force=True)
    assert tensors(out / "m.onnx") == tensors(model)
    assert digests(out).keys() == {"m.onnx", data_name(out / "m.onnx")}
    assert data_name(out / "m.onnx") == ("m.onnx_data" if call == 3 else "m.2.onnx_data")


def test_a_living_writer_is_left_alone(model: Path, out: Path) -> None:
    with ModelWriter(out / "m.onnx") as first:
        first.add("early", np.ones(10000))
        with ModelWriter(out / "m.onnx") as second:
            second.add("early", np.ones(10000))
            assert len(digests(out)) == 4
        first.commit(load_model(model))
    assert digests(out).keys() == {"m.onnx", "m.onnx_data"}
    assert tensors(out / "m.onnx") == tensors(model)


def test_links_at_the_destination_are_replaced_not_followed(model: Path, out: Path, tmp_path: Path) -> None:
    """A link that is named like our data file is nobody's that we know: it stays, and another name is taken."""
    victims = [tmp_path / name for name in ("victim.onnx", "victim.onnx_data")]
    for victim, name in zip(victims, ("m.onnx", "m.onnx_data"), strict=True):
        victim.write_text("not yours")
        (out / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        save(model, out / "m.onnx")
    save(model, out / "m.onnx", force=True)
    assert [victim.read_text() for victim in victims] == ["not yours"] * 2
    assert not (out / "m.onnx").is_symlink()
    assert (out / "m.onnx_data").readlink() == victims[1]
    assert data_name(out / "m.onnx") == "m.2.onnx_data"


def test_data_of_another_place_is_not_removed(model: Path, out: Path) -> None:
    """The model that is replaced may claim any file as its data; only names that we give are ours to remove."""
    (out / "notes.txt").write_text("mine")
    (out.parent / "m.onnx_data").write_text("mine too")
    for location in ("notes.txt", "../m.onnx_data", "sub/../../m.onnx_data", str(out.parent / "m.onnx_data")):
        proto = text_model()
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        write(proto, out / "m.onnx")
        save(model, out / "m.onnx", force=True)
        assert (out / "notes.txt").read_text() == "mine"
        assert (out.parent / "m.onnx_data").read_text() == "mine too"


@pytest.mark.parametrize("name", ["m.onnx_data", "m.2.onnx_data", "m.3.onnx_data"])
def test_a_file_that_no_output_of_ours_refers_to_stays(model: Path, out: Path, name: str) -> None:
    save(model, out / "m.onnx")
    (out / "m.onnx_data").rename(out / "kept")  # so that any of the names may be somebody else's
    proto = read_proto(out / "m.onnx")
    (out / name).write_text("mine")
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "kept" if entry.key == "location" else entry.value
    write(proto, out / "m.onnx")
    for _ in range(4):
        save(model, out / "m.onnx", force=True)
        assert (out / name).read_text() == "mine"
        assert tensors(out / "m.onnx") == tensors(model)
        assert digests(out).keys() == {"m.onnx", "kept", name, data_name(out / "m.onnx")}


def test_the_data_of_a_neighbour_stays(model: Path, out: Path) -> None:
    """``m.2.onnx`` has its data in ``m.2.data``, which the data of ``m.onnx`` may be named, too."""
    save(model, out / "m.onnx")
    save(model, out / "m.2.onnx")
    neighbour = digests(out)["m.2.onnx_data"]
    for _ in range(3):
        save(model, out / "m.onnx", force=True)
        assert digests(out)["m.2.onnx_data"] == neighbour
        assert tensors(out / "m.2.onnx") == tensors(out / "m.onnx") == tensors(model)


def test_the_data_of_a_model_that_others_wrote_stays(model: Path, out: Path) -> None:
    write_external(text_model(), out / "m.onnx", "m.onnx_data")
    before = digests(out)["m.onnx_data"]
    save(model, out / "m.onnx", force=True)
    assert digests(out)["m.onnx_data"] == before
    assert data_name(out / "m.onnx") == "m.2.onnx_data"


def test_the_data_of_a_copied_model_stays(model: Path, out: Path) -> None:
    save(model, out / "m.onnx")
    (out / "copy.onnx").write_bytes((out / "m.onnx").read_bytes())
    save(model, out / "m.onnx", force=True)
    assert tensors(out / "copy.onnx") == tensors(model)
    assert digests(out).keys() == {"m.onnx", "m.2.onnx_data", "copy.onnx", "m.onnx_data"}


def test_a_dead_run_whose_data_name_somebody_took(model: Path, out: Path) -> None:
    """Killed before its data file was in place; the file that has that name since is not its own."""
    assert death_of(lambda: die(model, out / "m.onnx", 0), seconds=60) == "SIGKILL"
    (out / "m.onnx_data").write_text("mine")
    save(model, out / "m.onnx", force=True)
    assert (out / "m.onnx_data").read_text() == "mine"
    assert digests(out).keys() == {"m.onnx", "m.onnx_data", "m.2.onnx_data"}


@pytest.mark.parametrize("name", ["m.onnx_data", "m.2.onnx_data", "out.data"])
def test_a_model_that_is_named_like_a_data_file(model: Path, out: Path, name: str) -> None:
    save(model, out / name)
    assert data_name(out / name) != name
    assert tensors(out / name) == tensors(model)


def test_a_name_that_no_model_can_hold(model: Path, out: Path) -> None:
    destination = Path(os.fsdecode(os.fsencode(out) + b"/c\xff.onnx"))
    with pytest.raises(InputError, match="UTF-8"):
        save(model, destination)
    assert digests(out) == {}
    save(model, destination, inline=True)
    assert tensors(destination) == tensors(model)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device node")
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def make_broken_link(path: Path) -> None:
    path.symlink_to("nothing")


@pytest.mark.parametrize("make", [make_pipe, make_device, make_socket, make_broken_link])
def test_only_regular_files_are_replaced(model: Path, out: Path, make: Callable[[Path], None]) -> None:
    make(out / "m.onnx")
    before = (out / "m.onnx").lstat()
    with pytest.raises(FileExistsError, match="not a regular file"):
        save(model, out / "m.onnx", force=True)
    with pytest.raises(FileExistsError, match="not a regular file"):
        write_text(out / "m.onnx", "text", force=True)
    assert (out / "m.onnx").lstat() == before
    assert [path.name for path in out.iterdir()] == ["m.onnx"]


def test_permissions_owner_and_attributes_of_a_replaced_file_are_kept(model: Path, out: Path) -> None:
    save(model, out / "m.onnx")
    write_text(out / "r.json", "one")
    owner = (1234, 1235) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    for path, mode in ((out / "m.onnx", 0o640), (out / "m.onnx_data", 0o600), (out / "r.json", 0o604)):
        path.chmod(mode)
        os.chown(path, *owner)
        with contextlib.suppress(OSError):  # not every file system has them
            os.setxattr(path, "user.note", path.name.encode())
    attributes = os.listxattr(out / "m.onnx")
    save(model, out / "m.onnx", force=True)
    write_text(out / "r.json", "two", force=True)
    for path, mode in (("m.onnx", 0o640), ("m.onnx_data", 0o600), ("r.json", 0o604)):
        status = (out / path).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, *owner)
        assert os.listxattr(out / path) == attributes
        assert not attributes or os.getxattr(out / path, "user.note") == Path(path).name.encode()


def test_a_pipe_that_is_named_like_a_leftover(model: Path, out: Path) -> None:
    os.mkfifo(out / ".m.onnx.mcd-tmp-000000000000.onnx")
    save(model, out / "m.onnx")
    assert {path.name for path in out.iterdir()} == {"m.onnx", "m.onnx_data"}


def test_no_space_for_the_data(model: Path, out: Path) -> None:
    with small_disk(out, "64k"):
        with pytest.raises(OSError, match="No space left"):
            save(model, out / "m.onnx")
        assert digests(out) == {}


def test_no_space_leaves_the_old_model(out: Path, model: Path) -> None:
    with small_disk(out, "200k"):
        save(model, out / "m.onnx")
        before = digests(out)
        with pytest.raises(OSError, match="No space left"):
            save(model, out / "m.onnx", force=True)
        assert digests(out) == before


def test_write_text(out: Path) -> None:
    write_text(out / "r.json", "one")
    with pytest.raises(FileExistsError):
        write_text(out / "r.json", "two")
    assert (out / "r.json").read_text() == "one"
    write_text(out / "r.json", "two", force=True)
    assert (out / "r.json").read_text() == "two"
    assert digests(out).keys() == {"r.json"}
