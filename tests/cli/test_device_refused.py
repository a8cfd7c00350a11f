"""A device that cannot be used is one line and exit code 2 from every command that measures there; nothing is written.

`predict --device` is not among them: it reads what was measured on a device, and needs none.
"""

from pathlib import Path

import pytest

from perstep.targets.transformers import device_check
from perstep.targets.transformers.device_check import DeviceUse

from ..conftest import Cli

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

GOLDEN = Path(__file__).parents[1] / "golden"
COMMANDS = {
    "ledger": ("ledger", "--arch", "{model}/config.json"),
    "ledger of a folder": ("ledger", "-m", "{model}", "--backend", "torch"),
    "ledger of mini": ("ledger", "--backend", "torch"),
    "cache": ("cache", "--arch", "{model}/config.json"),
    "context": ("context", "--arch", "{model}/config.json"),
    "depth": ("depth", "--arch", "{model}/config.json"),
    "output": ("output", "--arch", "{model}/config.json"),
    "experts": ("experts", "--arch", str(GOLDEN / "olmoe.json")),
    "generate": ("generate",),
    "mask": ("mask",),
    "ops": ("ops", "--arch", "{model}/config.json", "--backend", "torch", "--seq", "8"),
    "machine": ("machine",),
    "selftest": ("selftest",),
}


def refused(name: str, device: str, model: Path, cli: Cli) -> str:
    """The one line of a command on a device."""
    words = [word.format(model=model) for word in COMMANDS[name]]
    said = cli(*words, "--device", device)
    assert (said.code, said.out) == (2, ""), said
    assert said.err.count("\n") == 1, said.err
    return said.err


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a first tensor goes, there is a GPU."""
    empty = torch.empty

    def made(*args: object, device: object = None, **options: object) -> object:
        return empty(*args, device=None if str(device) == "cuda" else device, **options)

    monkeypatch.setattr(torch, "empty", made)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_device_that_is_not_there_or_is_none_of_ours(name: str, tiny_llama: Path, cli: Cli) -> None:
    """No GPU, MPS, several at once."""
    assert "--device cuda cannot be used here" in refused(name, "cuda", tiny_llama, cli)
    assert "perstep does not see what that device does" in refused(name, "mps", tiny_llama, cli)
    assert "one device at a time" in refused(name, "cuda:0,cuda:1", tiny_llama, cli)
    assert not list(Path.cwd().rglob("manifest.json"))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_device_on_which_others_work(name: str, tiny_llama: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """How busy it is, and whose processes: before a weight is on it."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(device_check, "device_use", lambda _device: DeviceUse(97, 40_000, (4711,)))
    monkeypatch.setattr(device_check, "LOOK_EVERY_S", 0.0)
    said = refused(name, "cuda", tiny_llama, cli)
    assert "kernels of other programs run 97 % of the time (40,000 MiB in use by process 4711)" in said


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "machine"])  # which takes what is free
def test_a_device_without_room(name: str, tiny_llama: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is needed and how much is free, before anything is put there."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    said = refused(name, "cuda", tiny_llama, cli)
    assert "needs at least" in said
    assert "of 80.0 GB on cuda 0.0 are free" in said


@pytest.mark.parametrize("command", ["ledger", "cache", "context", "depth", "output", "ops"])
def test_the_numpy_decoder_is_told_to_stay_on_the_cpu(command: str, cli: Cli) -> None:
    """`mini` and NumPy's operators: what would be right is said."""
    said = cli(command, "--device", "cuda")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "--backend torch" in said.err
