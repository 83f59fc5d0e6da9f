"""What needs neither CUDA nor TensorRT runs on macOS and Windows too: simulated, in a process of its own.

Everything that those systems lack is taken away once the libraries of others are loaded, which know their ways
around it, and before anything of ours is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

LACKS = {
    "Darwin": {
        "os": ["sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "O_DIRECT", "eventfd"],
        "modules": [],
    },
    "Windows": {
        "os": ["sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "O_DIRECT", "eventfd",
               "killpg", "getpgid", "setpgid", "setsid", "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid",
               "chown", "chroot", "mkfifo", "mknod", "nice", "statvfs", "fstatvfs", "sysconf", "confstr", "uname",
               "getloadavg", "pread", "pwrite", "sync", "wait", "wait3", "wait4", "O_CLOEXEC", "O_NOFOLLOW",
               "O_DIRECTORY", "RTLD_LAZY", "RTLD_NOW", "RTLD_GLOBAL", "RTLD_LOCAL", "RTLD_DEEPBIND"],
        "signal": ["SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "setitimer",
                   "getitimer", "ITIMER_REAL", "alarm", "pthread_sigmask", "sigwait", "pause"],
        "modules": ["fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"],
    },
}  # fmt: skip

PROGRAM = """
import contextlib, importlib, json, sys

system, lacks, commands = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
OTHERS = ("numpy psutil click rich.console rich.progress msgspec safetensors.numpy safetensors.torch tokenizers torch "
          "torch.onnx transformers onnx onnx_ir onnxscript onnxruntime huggingface_hub jinja2 matplotlib.pyplot")
for name in OTHERS.split():
    importlib.import_module(name)
assert not [name for name in sys.modules if name.partition(".")[0] == "seqexport"]

import os, platform, signal

def take_away(module, names):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

take_away(os, lacks["os"])
take_away(signal, lacks.get("signal", ()))
for name in lacks["modules"]:
    sys.modules[name] = None
platform.system = lambda: system

from seqexport.exporter.cli import main
from seqexport.runtimes.comparison import compare
import msgspec

few = msgspec.structs.replace(compare.QUICK.accuracy, rows=1, prompt=4, steps=4)
short = msgspec.structs.replace(compare.QUICK.speed, lengths=(4,), steps=1, repeats=1)
compare.QUICK = msgspec.structs.replace(compare.QUICK, accuracy=few, speed=short)
for arguments in commands:
    sys.argv = ["seqexport", *arguments]
    try:
        main()
    except SystemExit as ended:
        print(f"{arguments[0]} ended with {ended.code}", file=sys.stderr)
"""


def run_on(system: str, folder: Path, *commands: list[str]) -> tuple[str, list[str]]:
    """What several commands printed, and the errors and ends of each, one after another in one process."""
    arguments = [system, json.dumps(LACKS[system]), json.dumps(commands)]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    ours = re.compile(r"error: |\w+ ended with ")
    return done.stdout, list(filter(ours.match, done.stderr.splitlines()))


def used(bundle: str) -> list[list[str]]:
    speed = ["--lengths", "4", "--steps", "1", "--repeats", "1"]
    return [
        ["verify", bundle],
        ["generate", bundle, "--prompt", "def ", "--max-new-tokens", "2"],
        ["generate", bundle, "--prompt", "def ", "--max-new-tokens", "2", "--backend", "torch"],
        ["compare", bundle, "--quick", "-o", "page.html"],
        ["inspect", bundle],
        ["bench", bundle, *speed],
        ["doctor"],
        ["plugins", "list"],
    ]


@pytest.mark.parametrize("system", LACKS)
def test_a_bundle_is_used(system: str, shipped: Path, tmp_path: Path) -> None:
    commands = used(str(shipped))
    out, ends = run_on(system, tmp_path, *commands, ["plugins", "build"])
    refusal, *_ = [line for line in ends if line.startswith("error: ")]
    ends.remove(refusal)
    assert ends == [*(f"{command[0]} ended with 0" for command in commands), "plugins ended with 2"]
    assert refusal.startswith(f"error: the plugin libraries are compiled on Linux, and this is {system}")
    for shown in ("logits", "def ", "page.html", "recurrent_state", "ONNX Runtime on CPU"):
        assert shown in out
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_model_is_exported_on_windows(tmp_path: Path) -> None:
    export = ["onnx", "--arch", "mamba", "-o", "made"]
    out, ends = run_on("Windows", tmp_path, export, [*export, "--force", "--no-verify"], ["inspect", "made"])
    assert ends == ["onnx ended with 0", "onnx ended with 0", "inspect ended with 0"]
    assert "verify in ONNX Runtime" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_the_programs_of_the_gpu_run_are_imported_without_fcntl() -> None:
    program = (
        "import sys, onnx, onnxruntime, psutil, torch, transformers; sys.modules.update(fcntl=None, resource=None);"
        "import seqexport.runtimes.benchmarks.lock, seqexport.plugins.build;"
        "from seqexport.exporter.benchmarks import conv_bodies, cpu_speed, export_cost, op_bodies, op_libraries"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
