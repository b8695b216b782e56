"""What a command line starts: the program behind its launchers, in how many ranks, and with which variables.

Read from the words that a shell passes: `srun -N 2 env X=1 torchrun --nproc-per-node 8 pretrain_gpt.py ...`. Only the standard
library is imported, because `record` runs this in the place of each launcher.

Options as in: torch v2.9 torch/distributed/run.py get_args_parser; Slurm 24.11 srun(1); Open MPI 5 mpirun(1); MPICH mpiexec(1);
DeepSpeed v0.18 deepspeed/launcher/runner.py; docker run(1); apptainer exec; GNU env(1).
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SHELLS = ("bash", "sh", "zsh", "dash")
PYTHON = re.compile(r"python(\d(\.\d+)?)?|pypy3?")
RUN_MODULES = ("torch.distributed.run", "torch.distributed.launch")
DEEPSPEED_MODULES = ("deepspeed", "deepspeed.launcher.runner")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
CONTAINERS = frozenset({"docker", "podman", "nerdctl", "apptainer", "singularity"})
INSIDE = re.compile(r"--container-(image|name)(=|$)")  # of srun with pyxis
PER_NODE = "PET_NPROC_PER_NODE"  # torchrun reads each of its options from PET_...
NODES_OF_TORCHRUN = "PET_NNODES"


@dataclass(frozen=True)
class Ranks:
    """How many ranks start. total: None where the words do not tell it.

    said: the options and variables that tell it. unknown: those of them whose value is known only where the program runs.
    """

    total: int | None = None
    said: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What one command line starts. program: a file or, after -m, a module; empty if there is none.

    outer: the words in front of it. launchers: the names among them, the first one first. env: variables that they set.
    inherited: names that they hand on from the environment around them; None if that is all of it. removed: names that they
    take out of it.
    script: whether a shell runs the program, so that what it starts is not known.
    """

    program: str = ""
    arguments: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    launchers: tuple[str, ...] = ()
    ranks: Ranks = Ranks()
    env: Mapping[str, str] = field(default_factory=dict)
    inherited: frozenset[str] | None = None
    removed: frozenset[str] = frozenset()
    script: bool = False

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """The variables that the program gets. around: those in which the command line is called."""
        kept = around if self.inherited is None else {name: around[name] for name in self.inherited if name in around}
        return {name: value for name, value in kept.items() if name not in self.removed} | dict(self.env)

    @property
    def contained(self) -> bool:
        """Whether it runs in a container, whose files and variables are not those around it."""
        return bool(CONTAINERS & set(self.launchers)) or any(INSIDE.match(word) for word in self.outer)

    @property
    def starts_ranks(self) -> bool:
        """Whether a launcher of ranks is among its words."""
        return bool(set(self.launchers) & STARTS_RANKS)


@dataclass(frozen=True)
class _Options:
    """The options of one launcher. flags: those without a value; every other one takes the next word, or what follows `=`."""

    flags: frozenset[str]
    pairs: frozenset[str] = frozenset()  # take two words
    short: str = ""  # letters of short options that take a value, also attached: -N4


def _options(flags: str, *, pairs: str = "", short: str = "") -> _Options:
    return _Options(frozenset(flags.split()), frozenset(pairs.split()), short)


TORCHRUN = _options("--standalone -m --module --no-python --run-path --virtual-local-rank -h --help")
DEEPSPEED = _options(
    "--module --no_python --no_local_rank --force_multi --save_pid --elastic_training --bind_cores_to_rank --no_ssh "
    "--no_ssh_check -h --help"
)
ACCELERATE = _options(
    "--cpu --multi_gpu --tpu --ipex --use_deepspeed --use_fsdp --use_megatron_lm --use_xpu --quiet -q -m --module --no_python --debug "
    "--same_network --use_parallelism_config --enable_cpu_affinity -h --help"
)
SRUN = _options(
    "--exclusive --label --overlap --unbuffered --no-kill --quiet --verbose --kill-on-bad-exit --container-writable "
    "--container-readonly --container-mount-home --no-container-mount-home --container-remap-root --no-container-remap-root "
    "--no-container-entrypoint --container-entrypoint --pty --multi-prog --overcommit --oversubscribe --preserve-env --propagate "
    "--contiguous --disable-status --exact --immediate --no-allocate --resv-ports --spread-job --use-min-nodes --test-only --whole "
    "--external --interactive --hold --compress --bcast --help --usage --version",
    short="ABcCdDeEGiJLmMnNopqrSTtwWx",
)
MPIRUN = _options(
    "--allow-run-as-root --oversubscribe --nooversubscribe --tag-output --timestamp-output --report-bindings --display-map "
    "--display-allocation --verbose --quiet --use-hwthread-cpus --merge-stderr-to-stdout --bynode --byslot --pernode "
    "--prepend-rank --l --q --v --nolocal --no-local --launch-agent-once --do-not-launch --report-state-on-timeout --xterm-all",
    pairs="--mca --gmca --env --genv --pmca --prtemca --omca",
)
DOCKER = _options(
    "--rm --detach --interactive --tty --privileged --init --read-only --publish-all --no-healthcheck --disable-content-trust "
    "--oom-kill-disable --sig-proxy --quiet",
    short="aceghlmpuvw",
)
APPTAINER = _options(
    "--nv --nvccli --rocm --cleanenv --contain --containall --writable --writable-tmpfs --no-home --fakeroot --userns --ipc --pid "
    "--no-init --no-privs --keep-privs --net --uts --compat --no-eval --disable-cache --no-https --no-umask --allow-setuid -e -c -C "
    "-w -f -u -i -p"
)
PYTHON_OPTIONS = _options("-b -bb -B -d -E -i -I -O -OO -P -q -s -S -u -v -x -V --version -h --help -?")
PREFIXES = {
    "nohup": "", "exec": "a", "command": "", "time": "fo", "nice": "n", "setsid": "", "ionice": "cn", "stdbuf": "ioe", "unbuffer": "",
    "eval": "", "taskset": "", "numactl": "CNmipl", "chrt": "", "timeout": "ks", "sudo": "ugCh", "catchsegv": "", "rocprof": "io", "strace": "eo",
}  # fmt: skip
"""Programs that start what follows them in the same number of ranks -> letters of their short options with a value."""
SEARCHED = ("uv", "poetry", "pixi", "pipenv", "conda", "nsys", "ncu", "dlprof", "hydra-overlap")
"""Programs of the same kind whose options are not known here: what they start is looked for."""
STARTS_RANKS = frozenset({"torchrun", *RUN_MODULES, "deepspeed", "accelerate", "srun", "mpirun", "mpiexec", "mpiexec.hydra", "prun", "aprun", "jsrun"})  # fmt: skip


def launch(
    words: Sequence[str],
    around: Mapping[str, str] | None = None,
    directives: Sequence[str] = (),
    *,
    exact: bool = False,
) -> Launch:
    """What a command line starts.

    words: as a shell passes them; one with a `$` in it is not known. around: variables in which it is called, as far as they
    are known. directives: options of the batch job that it is part of (`#SBATCH`). exact: whether these are all variables, so
    that torchrun starts one rank where nothing says how many.
    """
    reader = _Reader(list(words), dict(around or {}), list(directives), exact)
    reader.read()
    return reader.found()


def is_count(text: str) -> bool:
    """Whether a text is a number of nodes, ranks or the like: decimal digits of ASCII, and not beyond all bounds."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def directives_of(text: str) -> list[str]:
    """The words of a script's `#SBATCH` lines."""
    lines = (line for line in text.splitlines() if line.startswith("#SBATCH"))
    return [word for line in lines for word in shlex.split(line.removeprefix("#SBATCH"), comments=True)]


def batch_variables(directives: Sequence[str]) -> dict[str, str]:
    """Variables that Slurm sets in a job with these options, as far as they tell them."""
    said = _said(_parsed(directives, SRUN)[0])
    nodes, per_node, tasks = said.get("nodes", "1"), said.get("ntasks-per-node"), said.get("ntasks")
    if tasks is None and is_count(nodes) and is_count(per_node or ""):
        tasks = str(int(nodes) * int(per_node or 1))
    values = {
        "SLURM_NNODES": nodes, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS": tasks, "SLURM_NPROCS": tasks,
        "SLURM_NTASKS_PER_NODE": per_node, "SLURM_GPUS_ON_NODE": said.get("gpus-per-node"),
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None and is_count(value)}


def batch_job(words: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """What `sbatch WORDS` runs: (the text after --wrap, the script and its arguments, the options)."""
    taken, length = _parsed(words, SRUN)
    return _last(taken, "--wrap"), list(words[length:]), list(words[:length])


def _name(word: str) -> str:
    return word.rpartition("/")[2]


class _Reader:
    """Takes one launcher after another off the front of a command line."""

    def __init__(self, words: list[str], around: dict[str, str], directives: list[str], exact: bool) -> None:
        self.words, self.around, self.at, self.exact = words, around, 0, exact
        self.launchers: list[str] = []
        self.env: dict[str, str] = {}
        self.inherited: frozenset[str] | None = None
        self.removed: set[str] = set()
        self.counts: list[Ranks] = []
        self.program, self.script = "", False
        self.batch = _said(_parsed(directives, SRUN)[0])

    def found(self) -> Launch:
        """What was read."""
        after = self.at + bool(self.program)
        return Launch(
            program=self.program, arguments=tuple(self.words[after:]), outer=tuple(self.words[: self.at]),
            launchers=tuple(self.launchers), ranks=self._ranks(), env=self.env, inherited=self.inherited,
            removed=frozenset(self.removed), script=self.script,
        )  # fmt: skip

    def _ranks(self) -> Ranks:
        """Those of the innermost launcher that starts ranks: torchrun under srun is what counts."""
        if self.counts:
            return self.counts[-1]
        world = self.around.get("WORLD_SIZE", "")
        return Ranks(int(world), f"WORLD_SIZE={world}") if is_count(world) else Ranks()

    def read(self) -> None:
        """To the program, which `at` is then the place of."""
        while self.at < len(self.words):
            word = self.words[self.at]
            name = _name(word)
            if ASSIGNMENT.match(word) and (not self.launchers or self.launchers[-1] == "env"):
                self._assign(word)
                self.at += 1
                continue
            step = self._step(name)
            if step is None:
                self.program, self.script = word, name in SHELLS or name.endswith(".sh")
                return
            self.launchers.append(name)
            self.at += 1
            step()
            if self.program:
                return

    def _step(self, name: str) -> Callable[[], None] | None:
        steps = {
            "torchrun": self._torchrun, "torchrun.py": self._torchrun, "deepspeed": self._deepspeed, "accelerate": self._accelerate,
            "srun": self._srun, "mpirun": self._mpirun, "mpiexec": self._mpirun, "mpiexec.hydra": self._mpirun, "prun": self._mpirun,
            "docker": self._docker, "podman": self._docker, "nerdctl": self._docker, "apptainer": self._apptainer,
            "singularity": self._apptainer, "ray": self._ray, "env": self._env, "sbatch": self._batch, "salloc": self._batch,
        }  # fmt: skip
        if name in SHELLS:
            return self._inside_shell()
        if PYTHON.fullmatch(name):
            return self._python
        if name in SEARCHED:
            return self._to_next_launcher
        return steps.get(name) or ((lambda: self._prefix(name)) if name in PREFIXES else None)

    def _inside_shell(self) -> Callable[[], None] | None:
        """`bash -c` in front of the words of its text, which a reader of scripts has taken apart; else a shell is a program."""
        after = self.words[self.at + 1 : self.at + 3]
        apart = len(after) == 2 and bool(re.fullmatch(r"-[a-z]*c", after[0])) and not re.search(r"\s", after[1])
        return (lambda: self._skip(1)) if apart else None

    def _skip(self, words: int) -> None:
        self.at += words

    def _assign(self, word: str) -> None:
        name, _, value = word.partition("=")
        self.env[name] = value

    def _take(self, options: _Options) -> dict[str, list[str]]:
        """The options that stand here, by their long names; `at` is then the first word after them."""
        taken, length = _parsed(self.words[self.at :], options)
        self.at += length
        return taken

    def _number(self, text: str | None) -> tuple[int | None, bool]:
        """(the number that a word is, whether its text is known): `$SLURM_NNODES` is what the batch job or the shell says."""
        if text is None:
            return None, True
        named = re.fullmatch(r"\$\{?(\w+)\}?", text)
        if named:
            text = self.around.get(named[1]) or self._slurm(named[1]) or text
        if is_count(text):
            return int(text), True
        low, colon, high = text.partition(":")  # elastic: from so many nodes to so many
        return (int(low), True) if colon and low == high and is_count(low) else (None, False)

    def _slurm(self, name: str) -> str | None:
        return {
            "SLURM_NNODES": self.batch.get("nodes"), "SLURM_JOB_NUM_NODES": self.batch.get("nodes"),
            "SLURM_NTASKS": self.batch.get("ntasks"), "SLURM_NTASKS_PER_NODE": self.batch.get("ntasks-per-node"),
            "SLURM_GPUS_ON_NODE": self.batch.get("gpus-per-node"), "SLURM_GPUS_PER_NODE": self.batch.get("gpus-per-node"),
        }.get(name)  # fmt: skip

    def _product(self, *said: tuple[str, str | None, int | None]) -> Ranks:
        """said: (option, its text, what counts where it is not said; None if that is not known)."""
        total, unknown, texts = 1, [], []
        for option, text, otherwise in said:
            number, known = self._number(text)
            number = otherwise if text is None else number
            if text is not None:
                texts.append(f"{option} {text}")
            if number is None or not known:
                unknown.append(f"{option} {text}" if text is not None else option)
            else:
                total *= number
        return Ranks(None if unknown else total, ", ".join(texts), tuple(unknown))

    # launchers of ranks

    def _torchrun(self) -> None:
        taken = {name.replace("_", "-"): values for name, values in self._take(TORCHRUN).items()}
        per_node = _last(taken, "--nproc-per-node") or self.around.get(PER_NODE)
        nodes = _last(taken, "--nnodes") or self.around.get(NODES_OF_TORCHRUN)
        nodes = None if "--standalone" in taken else nodes
        silent = per_node is None and not self.exact
        self.counts.append(
            Ranks() if silent else self._product(("--nnodes", nodes, 1), ("--nproc-per-node", per_node, 1))
        )
        self._program_after(module="-m" in taken or "--module" in taken, plain="--no-python" in taken)

    def _deepspeed(self) -> None:
        taken = self._take(DEEPSPEED)
        gpus, nodes = _last(taken, "--num_gpus"), _last(taken, "--num_nodes")
        one_node = 1 if not any(name in taken for name in ("-H", "--hostfile", "-i", "--include")) else None
        self.counts.append(self._product(("--num_nodes", nodes, one_node), ("--num_gpus", gpus, None)))
        self._program_after(module="--module" in taken, plain="--no_python" in taken)

    def _accelerate(self) -> None:
        if self.words[self.at : self.at + 1] != ["launch"]:
            self.program = self.words[self.at] if self.at < len(self.words) else ""
            return
        self.at += 1
        taken = self._take(ACCELERATE)
        self.counts.append(self._product(("--num_processes", _last(taken, "--num_processes"), None)))
        self._program_after(module="-m" in taken or "--module" in taken, plain="--no_python" in taken)

    def _program_after(self, *, module: bool, plain: bool) -> None:
        """The word here is the program; with --no-python another launcher may stand in its place."""
        if plain or self.at >= len(self.words):
            return
        self.program = self.words[self.at]

    def _srun(self) -> None:
        taken = self._take(SRUN)
        said = {**self.batch, **_said(taken)}
        for option in taken.get("--export", []):
            self._exported(option)
        self.counts.append(self._tasks(said))

    def _batch(self) -> None:
        self.batch = {**self.batch, **_said(self._take(SRUN))}

    def _tasks(self, said: Mapping[str, str]) -> Ranks:
        """Tasks of srun: as its options say, then as the job's, then as the variables that Slurm sets in a job."""
        if "ntasks" in said:
            return self._product(("--ntasks", said["ntasks"], None))
        nodes, per_node = said.get("nodes"), said.get("ntasks-per-node")
        if nodes is None and per_node is None and "SLURM_NTASKS" in self.around:
            return self._product(("SLURM_NTASKS", self.around["SLURM_NTASKS"], None))
        nodes = nodes or self.around.get("SLURM_NNODES")
        per_node = per_node or self.around.get("SLURM_NTASKS_PER_NODE")
        if nodes is None and per_node is None:
            return Ranks(None, "", ("--ntasks",))
        return self._product(("--nodes", nodes, None), ("--ntasks-per-node", per_node, 1))

    def _exported(self, option: str) -> None:
        """--export=ALL,NAME=VALUE | NONE | NAME,NAME=VALUE."""
        parts = option.split(",")
        for part in parts:
            if "=" in part:
                self._assign(part)
        if "ALL" not in parts:
            names = frozenset(part for part in parts if "=" not in part and part not in ("NONE", "NIL"))
            self._hand_on(names)

    def _hand_on(self, names: frozenset[str]) -> None:
        self.inherited = names if self.inherited is None else names & self.inherited

    def _mpirun(self) -> None:
        taken = {"--" + name.lstrip("-"): values for name, values in self._take(MPIRUN).items()}
        for option in taken.get("--x", []):
            if "=" in option:
                self._assign(option)
        for option in (*taken.get("--env", ()), *taken.get("--genv", ())):
            name, _, value = option.partition(" ")
            self.env[name] = value
        total = _last(taken, "--np") or _last(taken, "--n") or _last(taken, "--c")
        per_node = _last(taken, "--npernode") or _last(taken, "--N") or _last(taken, "--ppn")
        if total is None and per_node is not None:
            hosts = next((values[-1] for name, values in taken.items() if name in ("--H", "--host")), None)
            nodes = None if hosts is None or "$" in hosts else str(len(hosts.split(",")))
            self.counts.append(self._product(("nodes", nodes, None), ("--npernode", per_node, None)))
        else:
            self.counts.append(self._product(("-np", total, None)))

    # what changes the environment, or only stands before a program

    def _env(self) -> None:
        while self.at < len(self.words) and self.words[self.at].startswith("-"):
            option = self.words[self.at]
            self.at += 1
            if option in ("-i", "-", "--ignore-environment"):
                self._hand_on(frozenset())
            elif option in ("-u", "--unset", "-C", "--chdir"):
                self.removed |= set(self.words[self.at : self.at + 1]) if "u" in option else set()
                self.at += 1

    def _docker(self) -> None:
        while self.at < len(self.words) and self.words[self.at].startswith("-"):  # options of docker itself
            self._take(_options("--debug --tls --tlsverify -D"))
        kind = self.words[self.at] if self.at < len(self.words) else ""
        self.at += 1
        if kind == "container":
            kind = self.words[self.at] if self.at < len(self.words) else ""
            self.at += 1
        if kind not in ("run", "exec", "create"):
            self.at = len(self.words)
            return
        names = set()
        for option in (values := self._take(DOCKER)).get("-e", []) + values.get("--env", []):
            if "=" in option:
                self._assign(option)
            else:
                names.add(option)
        self._hand_on(frozenset(names))
        self.at += 1  # the image, or the container

    def _apptainer(self) -> None:
        kind = self.words[self.at] if self.at < len(self.words) else ""
        self.at += 1
        if kind not in ("run", "exec", "shell"):
            self.at = len(self.words)
            return
        for name, value in list(self.around.items()):
            prefix = re.match(r"(APPTAINER|SINGULARITY)ENV_", name)
            if prefix:
                self.env[name.removeprefix(prefix[0])] = value
        taken = self._take(APPTAINER)
        for option in taken.get("--env", []):
            for part in option.split(","):
                if "=" in part:
                    self._assign(part)
        if any(name in taken for name in ("--cleanenv", "-e", "--containall", "-C")):
            self._hand_on(frozenset())
        self.at += 1  # the image

    def _ray(self) -> None:
        """`ray job submit --runtime-env-json={"env_vars": {...}} -- PROGRAM`."""
        end = self.words.index("--", self.at) if "--" in self.words[self.at :] else len(self.words)
        options = " ".join(self.words[self.at : end])
        found = re.search(r"--runtime-env-json[= ](\{.*\})", options, re.DOTALL)
        try:
            variables = json.loads(found[1]).get("env_vars", {}) if found else {}
        except (ValueError, AttributeError):  # a variable of the shell in it
            variables = {}
        self.env |= {str(name): str(value) for name, value in variables.items()}
        self.at = end + 1 if end < len(self.words) else self.at
        if end == len(self.words):
            self._to_next_launcher()

    def _python(self) -> None:
        while self.at < len(self.words) and self.words[self.at].startswith("-"):
            option = self.words[self.at]
            self.at += 1
            if option in ("-W", "-X", "--check-hash-based-pycs"):
                self.at += 1
            elif option == "-m":
                self._module()
                return
            elif option in ("-c", "-"):
                self.program = option
                self.at -= 1
                return
        if (
            self.at < len(self.words) and self._step(_name(self.words[self.at])) is None
        ):  # else: python /usr/bin/torchrun
            self.program = self.words[self.at]

    def _module(self) -> None:
        module = self.words[self.at] if self.at < len(self.words) else ""
        if module in RUN_MODULES or module in DEEPSPEED_MODULES:
            self.launchers.append("deepspeed" if module in DEEPSPEED_MODULES else module)
            self.at += 1
            (self._deepspeed if module in DEEPSPEED_MODULES else self._torchrun)()
        else:
            self.program = module

    def _prefix(self, name: str) -> None:
        """Options up to the first word that starts another launcher or is a program."""
        letters = PREFIXES[name]
        while self.at < len(self.words) and self.words[self.at].startswith("-"):
            option = self.words[self.at]
            self.at += 1
            if option == "--":
                break
            if len(option) == 2 and option[1] in letters:
                self.at += 1
        if name in ("timeout", "taskset", "chrt"):  # the duration, the mask, the priority
            self.at += 1

    def _to_next_launcher(self) -> None:
        """Over words whose options are not known here: to the next launcher or Python script."""
        for index in range(self.at, len(self.words)):
            word = self.words[index]
            if self._step(_name(word)) is not None or (word.endswith(".py") and not word.startswith("-")):
                self.at = index
                return
        self.at = len(self.words)


def _parsed(words: Sequence[str], options: _Options) -> tuple[dict[str, list[str]], int]:
    """(option -> its values, how many words they take): options at the front. A switch has the value ``."""
    taken: dict[str, list[str]] = {}
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word == "--":
            break
        name, equals, value = word.partition("=")
        long = name if name.startswith("--") or not options.pairs else "-" + name
        if equals and name.startswith("--"):
            taken.setdefault(name, []).append(value)
        elif long in options.pairs:
            taken.setdefault(long, []).append(" ".join(words[at : at + 2]))
            at += 2
        elif name.replace("_", "-") in options.flags or name in options.flags or long in options.flags:
            taken.setdefault(
                name.replace("_", "-") if name.startswith("--") and name not in options.flags else name, []
            ).append("")
        elif options.short and not name.startswith("--"):
            at += _short(word, words[at : at + 1], options.short, taken)
        else:
            taken.setdefault(name, []).append(value if equals else "".join(words[at : at + 1]))
            at += 0 if equals else 1
    return taken, at


def _short(word: str, after: Sequence[str], letters: str, taken: dict[str, list[str]]) -> int:
    """Short options in one word: -it, -N4, -N 4; -> words of their value."""
    for index, letter in enumerate(word[1:], 1):
        if letter in letters:
            rest = word[index + 1 :].removeprefix("=")
            taken.setdefault(f"-{letter}", []).append(rest or "".join(after))
            return 0 if rest else 1
        taken.setdefault(f"-{letter}", []).append("")
    return 0


def _last(taken: Mapping[str, list[str]], name: str) -> str | None:
    values = taken.get(name) or taken.get(name.replace("-", "_").replace("__", "--", 1))
    return values[-1] if values else None


SLURM = {"-n": "ntasks", "-N": "nodes", "--gpus-per-node": "gpus-per-node", "--gres": "gpus-per-node", "-G": "gpus"}


def _said(taken: Mapping[str, list[str]]) -> dict[str, str]:
    """Options of srun and sbatch that say how many, by their long names."""
    said: dict[str, str] = {}
    for name, values in taken.items():
        key, value = SLURM.get(name, name.removeprefix("--")), values[-1]
        if key == "nodes" and "-" in value:  # from so many to so many
            low, _, high = value.partition("-")
            value = low if low == high else f"{value}?"
        if key == "gpus-per-node":
            found = re.search(r"(?:^|gpu:(?:\w+:)?)(\d+)$", value)
            if found is None:
                continue
            value = found[1]
        said[key] = value
    return said
