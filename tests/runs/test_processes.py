"""Several processes that train one run, on this machine."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jcnn.runs import OptionError, processes, read_metrics, training
from jcnn.runs.interrupt import catch_interrupt
from jcnn.runs.processes import joined, reach
from jcnn.runs.verify.reproduce import reproduce
from tests.helpers.several_processes import free_port, options_of_each
from tests.helpers.tiny_experiment import write_experiment

PATIENCE = 200  # seconds; JAX notices a process that is dead within 100


def command(folder, *options):
    return [sys.executable, "-m", "tiny", "--run-dir", str(folder / "run"), *options]


def environment(devices):
    last = f" --xla_force_host_platform_device_count={devices}"  # it counts
    return os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + last}


@contextmanager
def begun(folder, number, *options, each=lambda process_id: ()):
    """The processes of one run, with a device each."""
    processes = [
        subprocess.Popen(
            [*command(folder, *own), *options, *each(i)],
            cwd=folder,
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, own in enumerate(options_of_each(number))
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ended(processes):
    """Return what the processes have printed, and their exit statuses."""
    texts = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return texts, [process.returncode for process in processes]


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    """The folder of a run of one process with two devices."""
    folder = tmp_path_factory.mktemp("devices")
    write_experiment(folder)
    whole = command(folder, "--devices", "2")
    subprocess.run(whole, cwd=folder, env=environment(2), check=True)
    return folder


def certificate(folder):
    return (folder / "run" / "certificate.jsonl").read_bytes()


def test_two_processes_give_the_bits_of_two_devices(two_devices, tmp_path, monkeypatch):
    write_experiment(tmp_path)
    how = ("--devices", "all", "--shard-parameters", "50")
    monkeypatch.setenv("STOP_AT", "3")  # the first one gets SIGTERM
    with begun(tmp_path, 2, *how) as processes:
        texts, statuses = ended(processes)
    assert statuses == [143, 143], texts
    monkeypatch.delenv("STOP_AT")
    with begun(tmp_path, 2, *how) as processes:
        (first, second), statuses = ended(processes)
    assert statuses == [0, 0], (first, second)
    assert "going on after 3 of 6 steps" in first
    assert "loss" not in second  # it writes nothing
    assert certificate(tmp_path) == certificate(two_devices)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {path.name for path in (two_devices / "run").iterdir()}
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():  # both saved
        parts = (checkpoint / "arrays").glob("ocdbt.process_*/d/*")
        assert {part.parts[-3][-1] for part in parts} == {"0", "1"}


def test_other_options_are_an_error_of_all_processes(tmp_path):
    write_experiment(tmp_path)
    how = {"each": lambda process_id: ["--seed", str(process_id)]}
    with begun(tmp_path, 2, "--devices", "2", **how) as processes:
        texts, statuses = ended(processes)
    assert statuses == [2, 2], texts
    assert all("--seed: 0 in the first process, 1 in another" in t for t in texts)
    assert not (tmp_path / "run").exists()


def change(folder, before, after):
    path = folder / "tiny.py"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


OTHER_DATA = "error: the processes of a run must have the same data: test/image: "


@pytest.mark.parametrize(
    "number, line, status, text",
    [
        (0, "raise KeyError('it')", 1, "error: another process: 'it'"),
        (1, "raise KeyError('it')", 1, "error: another process: 'it'"),
        (1, "pixels[:] = 1", 2, OTHER_DATA),
    ],
)
def test_what_is_wrong_in_one_process_ends_all(number, line, status, text, tmp_path):
    write_experiment(tmp_path)
    line = f"    if jax.process_index() == {number}: {line}\n"
    change(
        tmp_path, "    data =", f"    pixels = np.load('pixels.npy')\n{line}    data ="
    )
    change(tmp_path, 'np.load("pixels.npy")', "pixels")
    change(tmp_path, "import dataclasses\n", "import dataclasses\nimport jax\n")
    with begun(tmp_path, 2, "--devices", "2") as processes:
        texts, statuses = ended(processes)
    assert (statuses[number], statuses[1 - number]) == (status, 2), texts
    assert text in texts[1 - number]


def test_a_signal_ends_a_process_before_it_trains(tmp_path):
    """JAX would only note SIGTERM."""
    write_experiment(tmp_path)
    line = "    if jax.process_index() == 0: signal.raise_signal(signal.SIGTERM)\n"
    change(tmp_path, "    data =", f"{line}    data =")
    change(tmp_path, "import dataclasses\n", "import dataclasses\nimport jax\n")
    with begun(tmp_path, 2, "--devices", "2") as processes:
        texts, statuses = ended(processes)
    assert statuses[0] == -signal.SIGTERM and statuses[1] not in (0, None), texts


@pytest.mark.stress
def test_a_process_may_load_data_for_longer_than_gloo_waits(tmp_path):
    write_experiment(tmp_path)
    line = "    if jax.process_index(): import time; time.sleep(40)\n"
    change(tmp_path, "    data =", f"{line}    data =")
    change(tmp_path, "import dataclasses\n", "import dataclasses\nimport jax\n")
    with begun(tmp_path, 2, "--devices", "2", "--max-steps", "1") as processes:
        texts, statuses = ended(processes)
    assert statuses == [0, 0], texts


def test_the_end_of_another_process_is_told_of(monkeypatch):
    def fail(value):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(processes, "are_several", lambda: True)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", fail)
    with pytest.raises(processes.OthersEnded, match="another process .* closed by"):
        processes.gather(3)


def test_each_process_reads_its_part_of_streamed_images(tmp_path, monkeypatch):
    """The bits are those of one process with two devices, which reads whole batches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        write_experiment(folder)
        for index, pixels in enumerate(np.load(folder / "pixels.npy")):
            path = folder / "images" / str(index % 3) / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0]).save(path)
        whole = 'from_arrays(np.load("pixels.npy"), np.arange(20) % 3, 3)'
        how = '"images", view=View(6), channels=1, workers=0'
        change(folder, whole, f"stream_folder({how})")
        change(folder, "import from_arrays", "import View, stream_folder")
        places = 'np.arange(len(images), dtype="float32").reshape(-1, 1, 1, 1)'
        change(
            folder, "/ 255", f"/ (255 + {places})"
        )  # the order within a batch counts
        options = "--devices", "2", "--max-steps", "3", "--certify-every", "1"
        if name == "one":
            alone = command(folder, *options)
            subprocess.run(alone, cwd=folder, env=environment(2), check=True)
        else:
            with begun(folder, 2, *options) as processes:
                texts, statuses = ended(processes)
            assert statuses == [0, 0], texts
        found.append(certificate(folder))
    assert found[0] == found[1] and len(found[0].splitlines()) == 4


def test_a_signal_after_the_exchange_waits_for_the_next(monkeypatch):
    """Else one process would stop, and the others would not."""
    with catch_interrupt() as interrupts:

        def exchange(mine):
            interrupts.note(signal.SIGTERM)
            return [mine]

        monkeypatch.setattr(training, "gather", exchange)
        run = SimpleNamespace(interrupts=interrupts)
        assert training.Training.asked(run) == (False, False)
        assert training.Training.asked(run) == (True, False)


@pytest.mark.parametrize(
    "options, text",
    [
        ((None, 2, None), "--num-processes and --process-id need a --coordinator"),
        (("auto", 2, 0), "need a --coordinator HOST:PORT, got auto"),
        (("host", 2, 0), "must be HOST:PORT or \"auto\", got 'host'"),
        ((":123", 2, 0), "must be HOST:PORT or \"auto\", got ':123'"),
        (("host:123", 2, None), "needs --num-processes and --process-id"),
        (("host:99999", 2, 0), "must be HOST:PORT .* got 'host:99999'"),
        (("host:123", 2, 2), "--process-id must be at least 0 and below 2, .* got 2"),
        (("host:123", 2, -1), "--process-id must be at least 0 and .* got -1"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(OptionError, match=text), joined(*options):
        raise AssertionError("not reached")


def test_auto_without_a_scheduler_says_what_to_give(monkeypatch):
    text = "--coordinator auto: no job of a scheduler is found; --coordinator HOST:PORT"

    def initialize(**how):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(OptionError, match=text), joined("auto", None, None):
        raise AssertionError("not reached")


def test_ctrl_c_ends_a_first_process_that_waits():
    """JAX waits in C++, where Python handles no signal."""
    port = free_port()
    program = (
        "import signal; from jcnn.runs.processes import joined\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"with joined('localhost:{port}', 2, 0): pass"
    )
    how = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **how) as process:
        try:
            assert any("waits for the others" in line for line in process.stderr)
            time.sleep(1)  # JAX begins to wait
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == -signal.SIGINT
        finally:
            process.kill()


def test_a_coordinator_that_cannot_be_reached_is_an_error():
    port = free_port()
    began = time.monotonic()
    with pytest.raises(OptionError, match=f"localhost:{port} cannot be reached for 1"):
        reach(f"localhost:{port}", 1)
    assert time.monotonic() - began >= 1


@pytest.mark.stress
@pytest.mark.parametrize("sharded", [(), ("--shard-parameters", "50")])
@pytest.mark.parametrize("victim, number", [(0, 4), (1, 1)])
def test_the_death_of_one_ends_all_and_another_number_resumes(
    victim, number, sharded, two_devices, tmp_path
):
    write_experiment(tmp_path)
    how = ("--devices", "all", "--epochs", "200", *sharded)
    with begun(tmp_path, 2, *how) as processes:
        wait_for_checkpoint(tmp_path / "run")
        processes[victim].kill()
        texts, statuses = ended(processes)
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] not in (0, -signal.SIGKILL), texts
    assert "another" in texts[1 - victim]  # our message, or that of JAX
    with begun(tmp_path, number, *how) as processes:
        texts, statuses = ended(processes)
    assert statuses == [0] * number, texts
    assert "going on after" in texts[0]
    assert f"device.divided.processes: 2 -> {number}" in texts[0] or number == 1
    few, many = (read_metrics(f / "run") for f in (two_devices, tmp_path))
    losses = ([line["loss"] for line in lines[:6]] for lines in (few, many))
    np.testing.assert_allclose(*losses, rtol=1e-5)  # other devices round otherwise


@pytest.mark.stress
def test_one_process_with_as_many_devices_reproduces_a_run(two_devices, monkeypatch):
    with begun(two_devices, 2, "--devices", "2", "--begin-anew") as processes:
        texts, statuses = ended(processes)
    assert statuses == [0, 0], texts
    monkeypatch.chdir(two_devices)
    assert reproduce(two_devices / "run") == 0


def wait_for_checkpoint(run_dir):
    end = time.monotonic() + PATIENCE
    while not any((run_dir / "checkpoints").glob("[0-9]" * 10)):
        assert time.monotonic() < end
        time.sleep(0.2)
