"""Keeping transformers from writing to the user's terminal while it works for perstep."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR


@contextmanager
def silent() -> Iterator[None]:
    """Let transformers and its hub draw no progress bar and log errors alone; afterwards they speak as before."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    bar, level, hub_level = logging.is_progress_bar_enabled(), logging.get_verbosity(), hub.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity(ERROR)
    try:
        yield
    finally:
        hub.set_verbosity(hub_level)
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
