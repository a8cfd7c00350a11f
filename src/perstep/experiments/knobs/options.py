"""The options that depth, experts, context and output share; several models are one plan for each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from cyclopts import Parameter
from numpy import int64
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.knobs.prompts import Prompt, read_prompts
from perstep.experiments.models import ModelOptions
from perstep.targets import Target, Work

DEFAULT_PROMPT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class KnobOptions(ModelOptions):
    """Which model, and how often each configuration is measured."""

    model: Annotated[str | None, Parameter(name=["-m", "--model", "--model-path"])] = None
    """`mini`, the built-in model; a folder with a stored model; or a hub id, the only thing fetched from a network.
    Several, separated by commas, are measured in the same rounds; a path that holds a comma goes alone.
    [default: mini]"""

    arch: str | None = None
    """A real architecture with random weights instead: a name such as smollm2-135m, or a config.json; or several,
    separated by commas."""

    batch: Annotated[int, Parameter(name=["-b", "--batch"])] = 1
    """Sequences decoded side by side."""

    rounds: Annotated[int | None, Parameter(name=["--rounds", "--num-samples"])] = None
    """Samples of each configuration; fewer than 20 give no verdict, fewer than an interval needs no interval."""

    def each(self) -> list[Self]:
        """The same plan for each of its models alone.

        Raises:
            InputError: a name is empty, or given twice.
        """
        if self.model is not None and self.arch is not None:
            return [self]  # which opening it refuses
        models, archs = _names(self.model, "--model"), _names(self.arch, "--arch")
        several = len(models) > 1 or len(archs) > 1
        return [replace(self, model=m, arch=a) for m in models for a in archs] if several else [self]


@dataclass(frozen=True, kw_only=True)
class PromptOptions(KnobOptions):
    """The prompt, or the prompts, that all configurations share."""

    prompt_tokens: Annotated[int | None, Parameter(name=["-p", "--prompt-tokens"])] = None
    """Length of the prompt in tokens. [default: 64]"""

    prompt: str | None = None
    """A text to begin with, instead of --prompt-tokens of the model's own kind."""

    prompts: Path | None = None
    """Several prompts in one run, each measured in every configuration: a JSONL file, each line an object with a
    `prompt` text or a list of token `ids`."""

    def checked_prompts(self) -> list[Prompt]:
        """Check what can be checked before a model is loaded.

        Returns:
            The prompts of the file; none where no file is given.

        Raises:
            InputError: a count is out of its range, options exclude each other, or the file of prompts is wrong.
        """
        self.effort()
        given = {"--prompt": self.prompt, "--prompt-tokens": self.prompt_tokens, "--prompts": self.prompts}
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise InputError(f"{' and '.join(names)} exclude each other; give one of them")
        return [] if self.prompts is None else read_prompts(self.prompts)

    def make_prompts(self, prompts: Sequence[Prompt], target: Target, new_tokens: int) -> list[NDArray[int64]]:
        """The prompts, each [batch, T], once they are known to fit with what is generated after them.

        Args:
            prompts: of the file, as `checked_prompts` gave them; without any there is one prompt.
            target: the model.
            new_tokens: to generate.

        Raises:
            InputError: one overflows the model's context, or cannot be encoded.
        """
        encoded = []
        for prompt in prompts:
            encoded.append(prompt.encode(target, self.batch))
            try:
                target.check_fits(encoded[-1].shape[1], new_tokens)
            except InputError as error:
                raise InputError(f"{prompt.where}: {error}") from error
        return encoded or [self._one_prompt(target, new_tokens)]

    def input_tokens(self, works: Sequence[Work]) -> dict[str, Json]:
        """What a configuration says of its prompts: their mean length and, where there may be several, each length."""
        lengths = [work.text_tokens for work in works]
        mean = lengths[0] if len(set(lengths)) == 1 else sum(lengths) / len(lengths)
        return {"num_input_text_tokens": mean, "prompt_text_tokens": lengths if self.prompts is not None else []}

    def _one_prompt(self, target: Target, new_tokens: int) -> NDArray[int64]:
        num_tokens = self.prompt_tokens or DEFAULT_PROMPT_TOKENS
        if self.prompt is None:
            target.check_fits(num_tokens, new_tokens)
        prompt_BT = target.prompt(text=self.prompt, num_tokens=num_tokens, batch=self.batch, seed=self.seed)
        target.check_fits(prompt_BT.shape[1], new_tokens)
        return prompt_BT


def _names(text: str | None, option: str) -> list[str | None]:
    """The models that `--model` or `--arch` names; text that is a path as it stands is one."""
    if text is None or "," not in text or _exists(text):
        return [text]
    names: list[str | None] = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"{option} {text}: a name is empty; separate several by single commas")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{option} {text}: {twice[0]} is given twice; name each model once")
    return names


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long for a path
        return False


NewTokens = Annotated[int, Parameter(name=["-n", "--new-tokens"])]
"""The option -n."""
OpenNewTokens = Annotated[int | None, Parameter(name=["-n", "--new-tokens"])]
"""The same, where it may be left open."""
DEFAULT_NEW_TOKENS = 32


def tokens_of(new_tokens: int | None) -> int:
    """The tokens that a call generates, if the budget holds it.

    Args:
        new_tokens: as the option has it, None where it is left open.
    """
    return DEFAULT_NEW_TOKENS if new_tokens is None else new_tokens
