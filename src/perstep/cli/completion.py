"""`perstep completion`: what a shell needs to complete perstep's commands and options."""

from typing import Literal

from perstep.cli.streams import write


def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> int:
    """Print the completion script for a shell.

    `perstep completion bash > ~/.local/share/bash-completion/completions/perstep` installs it.

    Args:
        shell: The shell.
    """
    from perstep.cli.app import make_app

    write(make_app().generate_completion(shell=shell))
    return 0
