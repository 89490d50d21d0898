"""The scenes of faults.sh and power.sh: one call of the program per kind of file that it writes."""

import os
import shutil
import subprocess
from pathlib import Path

TIMEOUT_SECONDS = 120
RUN = "-m m.gguf -f t.txt -c 64 -b 64 -t 1 --lanes 1"
# Next to the folder, so that no call on it is counted.
LOG, ERRORS = "calls.log", "errors.txt"
STDOUT = "stdout.txt"

# Name, flags of the call, and the calls that prepare its folder. `KILL flags`: a run that is killed while it saves its
# state for the second time.
SCENES = [
    ("save", f"{RUN} --chunks 3 -ofreq 1 --save-frequency 2", ["collect", "-o imatrix.gguf --chunks 2"]),
    ("merge", "merge a.gguf b.gguf -o out.gguf", ["a", "b", "-o out.gguf --chunks 1"]),
    ("convert", "--in-file a.gguf --output-format dat -o a.dat", ["a", "-o a.dat --output-format dat --chunks 1"]),
    ("state", f"{RUN} --chunks 4 --accumulate f64 --shard 0/2 -o s.state", []),
    ("resume", f"{RUN} --chunks 4 --state-frequency 1 --resume", ["-o imatrix.gguf --chunks 1", "KILL"]),
    ("lens", f"{RUN} --chunks 3 --logit-lens --state-frequency 1", ["-o imatrix.gguf --chunks 1"]),
    ("convergence", f"{RUN} --chunks 4 --convergence -ofreq 2 --state-frequency 1", ["-o imatrix.gguf --chunks 1"]),
    ("logits", "kld m.gguf -f t.txt -c 64 -t 1 --chunks 2 --save-logits m.logits", []),
    ("report", "report a.gguf -o r.html", ["a"]),
    ("statistics", "--show-statistics --in-file a.gguf", ["a"]),
]
NAMED = {"a": "-o a.gguf --chunks 2", "b": "-o b.gguf --chunk 2 --chunks 2", "collect": ""}


class Scene:
    """A call, and the folder it finds."""

    def __init__(self, tools, name, flags, before):
        self.tools, self.name, self.flags = tools, name, flags.split()
        self.before = tools.work / f"{name}.before"
        self.before.mkdir()
        shutil.copy(tools.model, self.before / "m.gguf")
        text = tools.text.read_bytes()[:6000]
        (self.before / "t.txt").write_bytes(text)
        for made in before:
            self.make(made)
        self.clean = self.run("record", tools.work / f"{name}.clean")
        if self.clean.code != 0:
            raise SystemExit(f"{name}: exit code {self.clean.code} without a fault\n{self.clean.errors}")

    def make(self, made):
        flags = NAMED.get(made, made)
        if made == "KILL":
            killed = self.tools.call(self.before, "rename:2:KILL", [f for f in self.flags if f != "--resume"])
            if killed != 128 + 9 or not (self.before / "imatrix.gguf.state").exists():
                raise SystemExit(f"{self.name}: the run was to be killed with a state, and ended with {killed}")
        elif flags:
            code = self.tools.call(self.before, "record", [*RUN.split(), "--no-ppl", "--state-interval", "0", *flags.split()])
            if code != 0:
                raise SystemExit(f"{self.name}: {flags}: exit code {code}\n{(self.tools.work / ERRORS).read_text()}")
        (self.before / STDOUT).unlink(missing_ok=True)

    def run(self, what, folder):
        """Runs the call in a copy of its folder."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before, folder, symlinks=True)
        log, errors = (folder.with_name(folder.name + suffix) for suffix in (".log", ".err"))
        code = self.tools.call(folder, what, self.flags, log, errors)
        return Ended(code, errors.read_text(errors="replace"), log, folder)


class Ended:
    """How a call ended, and what it left."""

    def __init__(self, code, errors, log, folder):
        self.code, self.errors, self.log, self.folder = code, errors, log, folder
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Tools:
    """The program under the tracer."""

    def __init__(self, calls, program, model, text, work):
        self.calls, self.program, self.model, self.text, self.work = (Path(p).resolve() for p in (calls, program, model, text, work))

    def call(self, folder, what, flags, log=None, errors=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "XDG_"))}
        env.update(TMPDIR=str(self.work), HOME=str(self.work), OMP_WAIT_POLICY="passive", LC_ALL="C", GGML_NO_BACKTRACE="1")
        command = [self.calls, folder, what, log or self.work / LOG, self.program, *flags]
        with open(folder / STDOUT, "wb") as out, open(errors or self.work / ERRORS, "wb") as err:
            done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                  timeout=TIMEOUT_SECONDS, check=False)
        return done.returncode


def scenes(tools, only):
    for name, flags, before in SCENES:
        if not only or name in only:
            yield Scene(tools, name, flags, before)
