"""`jcnn doctor`: programs that die or hang, faults, advice, and the whole report."""

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jaxlib.version import __version__ as JAXLIB

import jcnn
from jcnn.__main__ import main
from jcnn.doctor import faults as jcnn_faults
from jcnn.doctor import report as doctor
from jcnn.doctor import speed
from jcnn.doctor.faults import FAULTS, program, verdict
from jcnn.engine.children import Ended, run

pytestmark = pytest.mark.usefixtures("full_compilation")

_LOCK = "import fcntl, time; f = open({!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); " + (
    "f.write('locked'); f.flush(); time.sleep(99)"
)
# A program that has begun, and what is said of it.
_ENDS = {
    "print('right')": "no",
    "print('wrong')": "yes, wrong numbers",
    "import os; os.abort()": "yes, the process ends",
    "import os; os.kill(os.getpid(), 11)": "yes, the process ends",
    "import os; os.kill(os.getpid(), 9)": "not run: it ended with status -9",
    "raise ValueError('no such option')": "not run: ValueError: no such option",
    "": "not run: it ended with status 0",
}


def _is_free(path: Path) -> bool:
    """Whether the process that locked a file dies within some seconds."""
    assert path.read_text() == "locked"
    with open(path) as file:
        for _ in range(100):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.1)
            else:
                return True
    return False


# Programs


@pytest.mark.parametrize("does, said", _ENDS.items())
def test_what_became_of_a_program(does, said):
    (ended,) = run([f"print('begun', flush=True)\n{does}"], 60)
    assert verdict(ended) == said


def test_who_dies_before_it_has_begun_says_nothing_of_the_fault():
    died, failed = run(["import os; os.abort()", "import no_such_module"], 60)
    assert verdict(died) == "not run: it ended with status -6"
    assert verdict(failed).startswith("not run: ModuleNotFoundError: No module named")


def test_who_hangs_is_killed_with_what_it_started_and_keeps_nobody(tmp_path):
    command = [sys.executable, "-c", _LOCK.format(str(tmp_path / "lock"))]
    hangs = f"print('begun', flush=True); import subprocess; subprocess.run({command})"
    hung, full, ended = run([hangs, "print('x' * 10**6)", "print('right')"], 5)
    assert verdict(hung) == "not run: no answer in 5 s"
    assert len(full.output) > 10**6 and verdict(ended) == "no"
    assert _is_free(tmp_path / "lock")


def test_ctrl_c_ends_them(tmp_path):
    lock = tmp_path / "lock"

    def interrupt():
        while not (lock.exists() and lock.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background job is started with SIGINT ignored.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run([_LOCK.format(str(lock))], 60)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert _is_free(lock)


def test_where_no_program_can_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert [verdict(e).split(":")[0] for e in run(["", ""], 9)] == ["not run"] * 2


def test_only_settings_of_jax_are_kept_from_them(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("XLA_FLAGS", "--one")
    monkeypatch.syspath_prepend("/no/such/folder")
    (ended,) = run(
        ["import json, os; print(json.dumps([sys.path, dict(os.environ)]))"], 60
    )
    path, variables = json.loads(ended.output)
    assert path == sys.path
    assert variables["XLA_FLAGS"] == "--one"
    jax_ = {name: v for name, v in variables.items() if name.startswith("JAX_")}
    assert jax_ == {"JAX_PLATFORMS": "cpu"}


def test_the_reason_is_the_last_line_or_what_xla_died_of():
    lines = "Traceback\n  line\nValueError: [1]\n\n"
    assert Ended(1, "", lines).reason == "ValueError: [1]"
    assert Ended(-6, "", "").reason == "it ended with status -6"
    fatal = "noise\nF1126 13:26:19.02 21487 a.cc:234] Unknown flag: --b\n  @ 0x7 f()\n"
    assert Ended(-6, "", fatal).reason == "Unknown flag: --b"


# Faults


def _verdicts() -> list[str]:
    return list(map(verdict, run([program(i) for i in range(len(FAULTS))], 120)))


def test_every_fault_has_a_definite_answer():
    answers = _verdicts()
    assert set(answers) <= {"no", "yes, wrong numbers", "yes, the process ends"}
    if (JAXLIB, platform.machine()) == ("0.10.2", "x86_64"):
        wrong, ends = "yes, wrong numbers", "yes, the process ends"
        assert answers == [wrong, ends, wrong, ends, wrong]


def test_remedies_help(monkeypatch):
    remedies = {fault.remedy for fault in FAULTS if fault.remedy}
    monkeypatch.setenv("XLA_FLAGS", " ".join(remedies))
    for fault, answer in zip(FAULTS, _verdicts()):
        assert answer == "no" or not fault.remedy


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f.avoided], ids=lambda f: f.what
)
def test_jcnn_avoids_them(fault, monkeypatch):
    def convolve(x, kernel, stride, padding):
        return jcnn.conv(x, kernel, strides=stride, padding=padding)

    monkeypatch.setattr(jcnn_faults, "_convolve", convolve)
    assert fault.right()


# Speed


def test_the_fastest_product_of_any_length_counts(monkeypatch):
    took = {384: [2.0, 1.0], 768: [2.0, 1.5], 1536: [9.0, 40.0]}  # milliseconds
    asked = []

    def milliseconds(product, a, b):
        asked.append(len(a))
        assert product(a, b).dtype == a.dtype == "bfloat16"
        return took[len(a)][min(asked.count(len(a)), 2) - 1]

    monkeypatch.setattr(speed, "_MILLISECONDS", 14)
    monkeypatch.setattr(speed, "_milliseconds", milliseconds)
    assert speed.product_gflops("bfloat16") == pytest.approx(2 * 1536**3 / 9e6)
    # The next one is a product of the length that has had the least time.
    assert asked == [384, 768, 1536, 384]


# The report

_RIGHT = Ended(0, "right", "")
_REASONS = json.dumps({"float32": None, "bfloat16": "too old", "float16": "too new"})
_TIMES = json.dumps({"forward": [3.0, 1.5], "input gradient": [20, 40]})
_GOOD = dict(reasons=Ended(0, _REASONS, ""), speed=Ended(0, f"words\n{_TIMES}\n", ""))


def _answers(monkeypatch, *, faults=_RIGHT, reasons, speed):
    """Lets all questions be answered so; returns the report."""

    def answer(programs, seconds):
        of = {"faults": faults, "print_reasons": reasons, "doctor.speed": speed}
        assert 0 < seconds < 30
        return [next(of[w] for w in of if w in program) for program in programs]

    monkeypatch.setattr(doctor, "run", answer)
    return "\n".join(doctor.diagnose())


def test_what_was_found_is_told(monkeypatch):
    lines = _answers(monkeypatch, **_GOOD).splitlines()
    assert lines[0].startswith(f"jcnn {jcnn.__version__}, jax ")
    for line in (
        "  oneDNN, float32   yes",
        "  oneDNN, bfloat16  no: too old",
        "  oneDNN, float16   no: too new",
        "  forward           3.00    1.50  2.0 times as fast",
        "  input gradient   20.00   40.00  0.5 times as fast",
    ):
        assert line in lines
    of_faults = [line for line in lines if "#" in line]
    assert len(of_faults) == sum(bool(fault.issue) for fault in FAULTS)
    assert {line.index("  no ") for line in of_faults} == {of_faults[0].index("  no ")}
    assert len(lines) < 35 and max(map(len, lines)) < 120


def test_where_nothing_answers_it_says_so(monkeypatch, capsys):
    lost = Ended(None, "", "no answer in 9 s")
    report = _answers(monkeypatch, faults=lost, reasons=lost, speed=lost)
    assert report.count("not run: no answer in 9 s") == len(FAULTS)
    assert report.count("not known: no answer in 9 s") == 3
    assert "not measured: no answer in 9 s" in report
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == report.splitlines()


def _advice(monkeypatch, **answers) -> str:
    report = _answers(monkeypatch, **_GOOD, **answers)
    return report.partition("what to set")[2]


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A system of which nothing is known, and no variable is set."""
    for name in list(os.environ):
        if name.startswith(doctor._ENVIRONMENT):
            monkeypatch.delenv(name)
    monkeypatch.setattr(doctor, "_HUGE_PAGES", str(tmp_path / "enabled"))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.35"))
    return tmp_path / "enabled"


@pytest.mark.parametrize(
    ("enabled", "libc", "asks", "root"),
    (
        ("always [madvise] never", ("glibc", "2.41.9000"), True, False),
        ("always madvise [never]", ("glibc", "2.35"), True, True),
        ("[always] madvise never", ("glibc", "2.35"), False, False),
        ("always [madvise] never", ("glibc", "2.34"), False, False),
        ("always [madvise] never", ("", ""), False, False),
        ("nonsense", ("glibc", "2.35"), False, False),
        (None, ("glibc", "2.35"), False, False),
    ),
)
def test_huge_pages(enabled, libc, asks, root, bare, monkeypatch):
    if enabled is not None:
        bare.write_text(enabled)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    advice = _advice(monkeypatch)
    assert ("GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in advice) == asks
    assert ("echo madvise >" in advice) == root
    assert ("  nothing" in advice) == (not asks)


def test_huge_pages_that_are_asked_for_already(bare, monkeypatch):
    bare.write_text("always [madvise] never")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    both = "GLIBC_TUNABLES=glibc.malloc.check=1:glibc.malloc.hugetlb=1\n"
    assert both in _advice(monkeypatch)
    monkeypatch.setenv("GLIBC_TUNABLES", both.partition("=")[2].strip())
    report = _answers(monkeypatch, **_GOOD)
    assert "madvise, and malloc asks for them" in report
    assert report.endswith("nothing")


def test_faults_that_an_option_ends(bare, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/a b")
    advice = _advice(monkeypatch, faults=Ended(-11, "begun\n", ""))
    setting = "XLA_FLAGS='--xla_dump_to=/a b --xla_cpu_experimental_ynn_fusion_type=-re"
    assert advice.count(setting) == 1
    assert "ends jax#39103 and jax#40412" in advice


def test_variables_that_matter(bare, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2\x1b[2J")
    monkeypatch.setenv("NPROC", "999")
    report = _answers(monkeypatch, **_GOOD)
    assert r"environment   ONEDNN_MAX_CPU_ISA=AVX2\x1b[2J" in report
    assert "999 threads of XLA" in report
    assert "unset ONEDNN_MAX_CPU_ISA" in report and "NPROC=999" in report
    assert f"  NPROC={doctor.usable_cores()}\n" in report


def test_the_command_without_extras_and_without_a_home():
    names = ("tyro", "rich", "matplotlib", "orbax", "PIL", "safetensors", "sklearn")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({names})); "
        "from jcnn.__main__ import main; sys.exit(main(['doctor']))"
    )
    variables = {"HOME": "/no/such/home", "XDG_CACHE_HOME": "/proc/no/such/cache"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("jcnn ") and "what to set before Python starts" in lines
    assert sum(any(fault.what in line for fault in FAULTS) for line in lines) == len(
        FAULTS
    )
    assert "ImportError" not in done.stdout


def test_ended_by_sigterm():
    command = [sys.executable, "-m", "jcnn", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as doctor_:
        assert doctor_.stdout is not None
        assert doctor_.stdout.readline().startswith(b"jcnn ")
        doctor_.terminate()
        assert doctor_.wait() == 143
