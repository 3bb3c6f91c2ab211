"""How commands end when something is in their way: interruptions, closed pipes, full devices, poor terminals; and that
names on the terminal are text."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from harness.cli.messages import Terminal, speak_any_encoding
from harness.errors import ExitCode, InputError
from harness.report.escape import one_line
from harness.report.figures.draw import FIGURES
from harness.report.figures.lettering import plain
from harness.report.figures.style import canvas, save, styled
from harness.report.results import read_results
from harness.report.write import Form, write_report
from harness.running.head import Head, check_address
from harness.running.on_ray import _join, check_control_process
from harness.running.run import Options, run
from harness.running.session import session_folder
from harness.store.compaction import compact
from harness.store.merge import merge
from harness.store.store import Store
from harness.store.verify import verify
from harness.trial import run_trial
from tests.small import small_specs
from tests.synthetic_store import fill_store, frames_of, trial_spec, trial_tables

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "a[red]b[/red]:smile:\x1b[31mc\x07\x9b1m\u202ed\u2066\u200be\udcff"
SHOWN = "a[red]b[/red]:smile:[31mc1mde"


@pytest.mark.parametrize("printed", [HOSTILE, Text(HOSTILE), "table", "out"])
def test_names_are_text_on_the_terminal(printed) -> None:
    terminal = Terminal(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    if printed == "table":
        printed = Table(HOSTILE)
        printed.add_row(HOSTILE)
    if printed == "out":
        terminal.out(HOSTILE, highlight=False)
    else:
        terminal.print(printed)
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert SHOWN in text
    for char in "\x07\x9b\u202e\u2066\u200b\udcff":
        assert char not in text
    assert "\x1b[31m" not in text


def test_names_on_figures_are_valid_in_svg(tmp_path: Path) -> None:
    @styled
    def draw():
        figure, axes = canvas("column", 2.0)
        axes[0, 0].set_title(plain(HOSTILE))
        return figure

    save(draw(), tmp_path / "figure.svg")  # type: ignore[arg-type]
    ElementTree.parse(tmp_path / "figure.svg")
    assert plain(HOSTILE) == one_line(HOSTILE) == SHOWN


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("ascii", b"+-1.5 - lambda Z Han\n"), ("latin-1", "\xb11.5 - lambda Z Han\n".encode("latin-1"))],
)
def test_terminals_of_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, text: bytes) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    speak_any_encoding()
    Terminal().print("±1.5 – λ Ž 漢")
    stream.flush()
    assert stream.buffer.getvalue() == text  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("error:Glyph")
def test_letters_of_every_script_are_drawn(tmp_path: Path) -> None:
    """A font without them would draw boxes and warn of it."""

    @styled
    def draw():
        figure, axes = canvas("column", 2.0)
        axes[0, 0].set_title(plain("Ž λ Ж 漢字 ねこ 고양이 ไทย 🐱 ﬁ"))
        return figure

    save(draw(), tmp_path / "figure.png")  # type: ignore[arg-type]
    assert plain("Ž λ Ж é") == "Ž λ Ж é"
    assert plain("漢 ねこ") == "Han neko"
    assert "?" not in plain("漢字 고양이 ไทย 🐱 ﬁ")


def command(*words: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*options.pop("first", []), str(ROOT)])}
    return subprocess.Popen([sys.executable, str(ROOT / "run_bench.py"), *words], env=environment, **options)


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = command("list", "methods", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.communicate()[1] == b""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_device_is_said_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = command("list", "methods", stdout=full, stderr=subprocess.PIPE)
        lines = done.communicate()[1].decode().splitlines()
        assert (len(lines), done.returncode) == (1, 1)
        assert lines[0].startswith("error: [Errno 28] No space left on device")
        done = command("list", "nothing", stderr=full)
        done.communicate()
        assert done.returncode == 2


def test_an_interruption_before_a_run_can_save_anything(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("raise KeyboardInterrupt\n")
    done = command("run", "quickstart", "--plugin", str(tmp_path / "plugin.py"), stderr=subprocess.PIPE)
    assert done.communicate()[1].decode() == "stopped; to go on, give the same command again\n"
    assert done.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("loaded", ["harness.py", "typer.py"])
def test_an_interruption_while_packages_are_loaded(loaded: str, number: signal.Signals, tmp_path: Path) -> None:
    """The harness itself is the first of them."""
    (tmp_path / loaded).write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import run_bench; run_bench.main()"
    done = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.communicate()[1].decode() == "stopped; to go on, give the same command again\n"
    assert done.returncode == 130


def test_a_figure_that_fails_is_named_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*frames, **options):
        raise RuntimeError("no\nfont")

    info = FIGURES["nsd"]
    monkeypatch.setitem(FIGURES, "nsd", replace(info, function=fail))
    said: list[str] = []
    names = ["nsd", "class_accuracy"]
    frames = frames_of([trial_spec("at", 0), trial_spec("rslad", 0)])
    written = write_report(read_results(frames), tmp_path, Form(figures=names, formats=["svg"]), left_out=said.append)
    assert [path.name for path in written if path.suffix == ".svg"] == ["class_accuracy.svg"]
    assert said == ["left out: nsd: could not be drawn (RuntimeError: no font)"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)


def test_a_figure_is_written_in_full_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, _ = canvas("column", 2.0)
    save(figure, tmp_path / "figure.png")
    before = (tmp_path / "figure.png").read_bytes()

    def fill(path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fill)
    with pytest.raises(OSError, match="No space left"):
        save(figure, tmp_path / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").read_bytes() == before


def test_a_store_that_cannot_be_written_is_only_printed(tmp_path: Path) -> None:
    specs = [trial_spec("at", 0), trial_spec("rslad", 0)]
    fill_store(tmp_path / "store", specs)
    (tmp_path / "store" / "report").write_text("")  # in the way, even of a superuser
    done = command("report", str(tmp_path / "store"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = (text.decode() for text in done.communicate())
    assert done.returncode == 0
    assert "rslad" in out
    assert err.splitlines()[-1].endswith("the report is only printed; --into FOLDER writes it elsewhere")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "quickstart"),
        ("tune", "quickstart", "--method", "at", "--space", "training.lr=choice(0.1, 0.2)", "--trials", "2"),
    ],
)
def test_a_bad_address_leaves_nothing_behind(words: tuple[str, ...], tmp_path: Path) -> None:
    done = command(*words, "--address", "127.0.0.1:1", "--results", "a/b", cwd=tmp_path, stderr=subprocess.PIPE)
    error = done.communicate()[1].decode()
    assert done.returncode == 2, error
    assert error.splitlines()[-1].startswith("error: no Ray cluster answers at '127.0.0.1:1'")
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_the_readme_tells_every_exit_code() -> None:
    told = re.findall(r"^\| (\d+) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [int(code) for code in told] == list(ExitCode)


def everything_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The time of change and the content of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("compacted", [False, True])
def test_a_merge_that_changes_nothing_writes_nothing(compacted: bool, tmp_path: Path) -> None:
    source = fill_store(tmp_path / "a", [trial_spec("at", 0), trial_spec("rslad", 0)])
    if compacted:
        compact(source)
    merge([source.root], tmp_path / "all")
    before = everything_in(tmp_path)
    for target in ("all", "a"):
        assert merge([source.root], tmp_path / target) == {"added": 0, "replaced": 0, "same": 2, "differing": 0}
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("work", ["merge", "compact"])
def test_what_a_full_disk_cuts_short_is_whole_and_goes_on(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every one of the files that are written."""
    specs = [trial_spec("at", 0), trial_spec("rslad", 0)]
    source = fill_store(tmp_path / "source", specs)

    def go(store: Store) -> None:
        if work == "merge":
            merge([source.root], store.root)
        else:
            compact(store)

    for room in range(100):
        store = fill_store(tmp_path / str(room), specs[1:] if work == "merge" else specs)
        written = iter(range(room))

        def replace_while_there_is_room(here: str, there: str, written: Iterator[int] = written) -> None:
            if next(written, None) is None:
                raise OSError(28, "No space left on device")
            os.rename(here, there)

        with monkeypatch.context() as patch:
            patch.setattr("harness.files.os.replace", replace_while_there_is_room)
            try:
                go(store)
                break
            except OSError:
                pass
        assert verify(store.root).broken == {}
        assert not list(store.root.rglob(".*.tmp"))
        go(store)
        assert verify(store.root).broken == {}
        assert store.statuses().keys() == source.statuses().keys()
    assert room > 5


def test_a_refused_merge_leaves_nothing_behind(tmp_path: Path) -> None:
    spec = trial_spec("at", 0)
    stores = [fill_store(tmp_path / name, [spec], per_class=size).root for name, size in (("a", 20), ("b", 30))]
    with pytest.raises(InputError, match="has other numbers"):
        merge(stores, tmp_path / "x" / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    before = everything_in(tmp_path)
    with pytest.raises(InputError, match="has other numbers"):
        merge(stores[:1], stores[1])
    assert everything_in(tmp_path) == before


def test_a_store_cannot_make_a_merge_write_outside_its_target(tmp_path: Path) -> None:
    row, tables = trial_tables(trial_spec("at", 0), per_class=20)
    store = Store(tmp_path / "a" / "hostile")
    store.commit(row | {"training_id": "../../outside"}, tables)
    (tmp_path / "a" / "outside").mkdir()
    (tmp_path / "a" / "outside" / "last.pt").write_text("")
    (store.root / "work").mkdir()
    with pytest.raises(InputError, match=r"training_id: '../../outside' is not"):
        merge([store.root], tmp_path / "b" / "all")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_makes_no_folder_anew_that_was_moved(tmp_path: Path) -> None:
    """Its trial is told by its first epoch that the folder is elsewhere."""
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"

    def move(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            root.rename(elsewhere)

    spec = small_specs(tmp_path)["at"]
    outcome = run([spec], Store(root), options=Options(serial=True, minimum_free_bytes=0), on_event=move)
    assert outcome.stop_reason == f"the results folder {root} is no longer there"
    assert outcome.exit_code == ExitCode.INCOMPLETE
    assert not root.exists()
    with pytest.raises(FileNotFoundError):
        list(run_trial(spec, root))
    with pytest.raises(FileNotFoundError):
        Store(root, begun=True).commit(*trial_tables(trial_spec("at", 0)))
    assert not root.exists()


def test_a_control_process_that_falls_silent_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("harness.running.head.time.monotonic", lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = Head(f"127.0.0.1:{server.getsockname()[1]}")
        now = 60.0
        assert head.answers()
        assert head.trouble() is None
    now = 65.0
    assert not head.answers()
    assert head.trouble() is None
    now = 71.0
    assert head.trouble() == f"Ray's control process at {head.address} no longer answers"


def test_what_a_killed_run_left_of_its_ray_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.running.session._LONGEST_SOCKET", 500)  # no socket is made here
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    code = "from harness.running.session import session_folder\nwith session_folder() as folder: print(folder); input()"
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = f"import harness.running.session as session; session._LONGEST_SOCKET = 500\n{code}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    owner = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)  # type: ignore[call-overload]
    theirs = Path(owner.stdout.readline().decode().strip())
    (tmp_path / "ray-of-another").mkdir()
    (tmp_path / "ray-link").symlink_to(theirs)
    others = ["ray-link", "ray-of-another"]

    with session_folder() as ours:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, theirs.name, *others])
    with open(theirs / "log", "w") as log:  # a worker that outlives its driver
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=log)
    owner.kill()
    owner.communicate()
    with session_folder():
        assert theirs.exists()
    worker.communicate()
    with session_folder() as ours:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, *others])
    assert sorted(path.name for path in tmp_path.iterdir()) == others


@pytest.mark.parametrize(("answers", "reason"), [(True, "404"), (False, "no answer within 2 s")])
def test_what_speaks_http2_and_is_no_cluster_is_found_out(
    answers: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.running.on_ray._ANSWER_TIMEOUT_S", 2.0)
    settings, missing = b"\0\0\0\4\0\0\0\0\0", b"\0\0\1\1\5\0\0\0\1\x8d"  # frames; the latter is a 404

    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(settings)
            begun = b""
            while data := self.request.recv(65536):
                begun += data
                if answers and b"grpc" in begun:  # the headers of the first request
                    self.request.sendall(missing)
                    begun = b""

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Other) as server:
        server.daemon_threads = True
        place = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            check_address(place)
            with pytest.raises(InputError, match=f"cannot join the Ray cluster at '127.0.0.1:.*{reason}"):
                check_control_process(place)
        finally:
            server.shutdown()


def test_what_ray_says_of_an_address_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    def fail(*arguments: Any, **options: Any) -> None:
        os.write(2, b"[E 1 1] many\nlines\n")
        raise ConnectionError("nobody\nthere")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(InputError, match="cannot join the Ray cluster at 'here:1': nobody there"):
        _join("here:1")
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"
