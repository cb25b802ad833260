"""One SGLang server as a child process: its command line, its start, its end. Knows no Ray and sends no requests.

The same released SGLang runs on CUDA and on a CPU; only the command differs (`command`). The server dies with the
process that started it, whatever kills that (`guardian.py`).
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import EngineUnavailable, UserError

HERE = Path(__file__).parent
CPU_KV_CACHE_BYTES = 512 * 2**20
CPU_MAX_TOTAL_TOKENS = 131_072
CPU_MAX_RUNNING_REQUESTS = 256
CUDA_GRACE_SECONDS = 20.0
"""SGLang's own drain takes 5 s and more; on CUDA it returns memory in order, on a CPU there is nothing to return."""
POLL_SECONDS = 0.1
LOG_LINES_SHOWN = 8
KILLS_ITSELF = "kill_process_tree called"
CHILD_KILLED = r"code:? -9\b"
"""In SGLang's words on a process of its own that has ended."""
PORTS = range(20_000, 32_768)
"""Below those of outgoing connections, one of which could take a port between the choice and SGLang's own bind."""
CANNOT_BIND = "error while attempting to bind on address"
"""SGLang lives on after its HTTP server said this."""

KEY_FILE, LOGGING_FILE = "key.yaml", "logging.json"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "[%(asctime)s] %(message)s", "datefmt": "%Y-%m-%d %H:%M:%S"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
    "loggers": {
        "sglang.srt.entrypoints.engine": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
    },
}
"""SGLang's own, but for the line in which its engine prints every setting, the key included."""

# A launcher's rank and address would send SGLang's own torch.distributed to the trainers.
FOREIGN_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH")


def command(
    model_path: Path,
    *,
    device: str,
    bf16: bool,
    host: str,
    port: int,
    tensor_parallel: int,
    memory_fraction: float,
    weight_version: int,
    seed: int | None = None,
    key_dir: Path | None = None,
    extra_args: Sequence[str] = (),
    environ: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a server. Pure but for reading the model's config.json on a CPU.

    Requests carry token ids only, so no server loads a tokenizer. `extra_args` come last and win. `key_dir` is what
    `write_key` has made, for a server that wants a key.
    """
    env = {name: value for name, value in environ.items() if name not in FOREIGN_VARIABLES}
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    argv = [
        *("--model-path", str(model_path), "--host", host, "--port", str(port)),
        *("--dtype", "bfloat16" if bf16 else "float32", "--tp-size", str(tensor_parallel)),
        *("--weight-version", str(weight_version), "--skip-tokenizer-init", "--skip-server-warmup"),
        *("--log-level-http", "warning"),
    ]
    if seed is not None:
        argv += ["--random-seed", str(seed)]
    if key_dir is not None:
        argv += ["--config", str(key_dir / KEY_FILE)]
        env.setdefault("SGLANG_LOGGING_CONFIG_PATH", str(key_dir / LOGGING_FILE))
    if device == "cuda":
        launcher = ["-m", "sglang.launch_server"]
        argv += ["--mem-fraction-static", str(memory_fraction)]
    else:
        launcher = [str(HERE / "cpu_launch.py")]
        env |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        argv += _cpu_args(model_path)
    return [sys.executable, *launcher, *argv, *extra_args], env


def guarded(argv: Sequence[str], *, parent_pid: int, scratch: str) -> list[str]:
    """The command under its guardian, who lives as long as `parent_pid` and removes `scratch` at the end."""
    return [sys.executable, "-IS", str(HERE / "guardian.py"), str(parent_pid), scratch, *argv]


def write_key(folder: Path, api_key: str) -> Path:
    """Gives a server its key in a file: neither the list of processes nor its log shows it. Returns `folder`."""
    with open(folder / KEY_FILE, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(f"api-key: {json.dumps(api_key)}\n")
    (folder / LOGGING_FILE).write_text(json.dumps(LOGGING))
    return folder


def _cpu_args(model_path: Path) -> list[str]:
    """Every operation in torch's own code, no graphs, no overlap thread; asleep when idle; a small KV cache."""
    return [
        *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
        *("--grammar-backend", "none", "--disable-overlap-schedule", "--sleep-on-idle"),
        *("--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"),
        *("--max-total-tokens", str(cpu_cache_tokens(model_path))),
        *("--max-running-requests", str(CPU_MAX_RUNNING_REQUESTS)),
    ]


def cpu_cache_tokens(model_path: Path) -> int:
    """Tokens whose keys and values fit into 512 MiB in FP32, but at least 8192 or one whole context."""
    try:
        config = json.loads((model_path / "config.json").read_text())
    except (OSError, ValueError):
        return CPU_MAX_TOTAL_TOKENS  # the server itself says best what is wrong with the model
    heads = config.get("num_attention_heads", 1)
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config.get("hidden_size", 1) // heads
    token_bytes = 2 * config.get("num_hidden_layers", 1) * kv_heads * head_dim * 4
    least = min(8192, config.get("max_position_embeddings", 8192))
    return max(int(least), min(CPU_MAX_TOTAL_TOKENS, int(CPU_KV_CACHE_BYTES // token_bytes)))


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The environment's proxy is for the hub, not for our own servers."""


class SGLangServer:
    """`start`, `wait_ready`, `stop`; may be started again after a stop. Not thread-safe."""

    def __init__(
        self,
        model_path: Path,
        *,
        device: str,
        bf16: bool,
        memory_fraction: float,
        log_path: Path,
        tensor_parallel: int = 1,
        extra_args: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        weight_version: int = 0,
        seed: int | None = None,
        api_key: str = "",
    ) -> None:
        """`port` 0: a free one is chosen, and kept once the server has answered there: others know it then."""
        self.model_path, self.device, self.log_path, self.host = model_path, device, log_path, host
        self.port, self._chooses_port = port, port == 0
        self._settings = {
            "bf16": bf16,
            "tensor_parallel": tensor_parallel,
            "memory_fraction": memory_fraction,
            "weight_version": weight_version,
            "seed": seed,
            "extra_args": tuple(extra_args),
        }
        self._api_key = api_key
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that holds the server: when it dies the server does, and the other way round."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def listens(self) -> bool:
        """Whether its port is open: one that dies closes it some seconds before it has ended."""
        try:
            socket.create_connection((self.host, self.port), timeout=5).close()
        except OSError:
            return False
        return self.alive()

    def start(self) -> None:
        """Returns at once. What the server prints goes to `log_path`, after what was there."""
        assert not self.alive(), "already started"
        if not (self.model_path / "config.json").is_file():
            raise UserError("no model here: config.json is missing", path=str(self.model_path))
        if self._chooses_port:
            self.port = free_port(self.host)
        self._scratch = tempfile.mkdtemp(prefix="opd-")
        argv, env = command(
            self.model_path,
            device=self.device,
            host=self.host,
            port=self.port,
            key_dir=write_key(Path(self._scratch), self._api_key) if self._api_key else None,
            environ=os.environ,
            **self._settings,  # type: ignore[arg-type]
        )
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                guarded(argv, parent_pid=os.getpid(), scratch=self._scratch),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, timeout_seconds: float, on_wait: Callable[[float], None] | None = None) -> None:
        """Until the server answers. `on_wait` hears the seconds waited.

        Raises UserError for what a retry would not cure (arguments, model, memory), else EngineUnavailable.
        """
        started = time.monotonic()
        restarts_left = 1 if self._chooses_port else 0
        while not self._answers():
            waited = time.monotonic() - started
            if not self.alive() or CANNOT_BIND in self._log():
                self.stop(0)
                if restarts_left and "port" in _cause(self._log(), self._status()):
                    restarts_left -= 1
                    self.start()
                    continue
                raise self._death()
            if waited > timeout_seconds:
                self.stop(0)
                raise EngineUnavailable(
                    f"SGLang for {self.model_path} does not answer after {timeout_seconds:.0f} s, see {self.log_path}"
                )
            if on_wait is not None:
                on_wait(waited)
            time.sleep(POLL_SECONDS)
        self._chooses_port = False

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ends the server and everything it started. `grace_seconds` is for its own clean end; 0 kills at once."""
        if self._process is None:
            return
        grace = grace_seconds if grace_seconds is not None else CUDA_GRACE_SECONDS if self.device == "cuda" else 0.0
        ways = [(signal.SIGTERM, grace)] if grace else []
        for number, seconds in [*ways, (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)]:
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with _DIRECT.open(f"{self.url}/health", timeout=5) as reply:
                return bool(reply.status == 200) and self.alive()
        except (OSError, urllib.error.URLError):
            return False

    def _status(self) -> int:
        return self._process.returncode if self._process and self._process.returncode is not None else 0

    def _log(self) -> str:
        """What this start printed; its end when it is long."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - 65_536))
            return log.read().decode(errors="replace")

    def _death(self) -> UserError | EngineUnavailable:
        log, status = self._log(), self._status()
        cause = _cause(log, status)
        lines = [line[:300] for line in log.splitlines() if line.strip()][-LOG_LINES_SHOWN:]
        message = "\n  ".join(
            [f"SGLang for {self.model_path} ended with status {status}: {cause or _exception(log)}", *lines]
        )
        hint = f"the whole log: {self.log_path}"
        lasting = bool(cause) and "port" not in cause
        return UserError(message, hint=hint) if lasting else EngineUnavailable(f"{message}\nhint: {hint}")


CAUSES: tuple[tuple[str, str], ...] = (
    (r"(?i)address already in use|\[Errno 98\]|port \d+ (is )?(already )?(in use|not available)", "port in use"),
    (r"(?i)out of memory|outofmemory|not enough memory|cannot allocate memory", "out of memory"),
    (r"(?m)^[\w. ]+: error: .*$", "bad arguments"),
    (r"(?i)Model architectures .* are not supported|architectures .* not supported", "model not supported by SGLang"),
    (
        r"(?i)HFValidationError|is not a (local folder|valid model)|does not appear to have|Repo id must|"
        r"Unrecognized model|Error no file|couldn't connect to|Cannot find any model weights|"
        r"Incorrect path_or_model_id",
        "the model cannot be read",
    ),
)


def _cause(log: str, status: int) -> str:
    """The likely cause in words, "" when nothing names one.

    Status 137 is SIGKILL: mostly the kernel's OOM killer, but SGLang too kills all its processes when one has ended.
    """
    for pattern, cause in CAUSES:
        if found := re.search(pattern, log):
            return f"{cause} ({found[0].strip()})"
    by_kernel = KILLS_ITSELF not in log or re.search(CHILD_KILLED, log)
    return "out of memory (killed)" if status in (137, -signal.SIGKILL) and by_kernel else ""


def _exception(log: str) -> str:
    """The last exception that a server printed; more than its last lines it says what happened."""
    found = re.findall(r"(?m)^(?:\w+\.)*\w+(?:Error|Exception)\b.*$", log)
    return found[-1][:300] if found else "unknown cause"


def free_port(host: str) -> int:
    """Free at the moment: another process may still take it first."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        for port in [*random.sample(PORTS, 100), 0]:
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                break
        return int(probe.getsockname()[1])
