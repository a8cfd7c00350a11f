"""Memory that runs out while something is measured, told in one line."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch says that memory ran out."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(phrase in words for phrase in ("out of memory", "can't allocate memory", "not enough memory"))
    )


def out_of_memory(error: BaseException) -> str:
    """The reason of a configuration that has failed, in one line."""
    lines = str(error).strip().splitlines()
    return f"out of memory: {lines[0]}" if lines else "out of memory"
