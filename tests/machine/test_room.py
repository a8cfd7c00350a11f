"""What importing the room costs."""

import subprocess
import sys


def test_importing_the_room_imports_nothing_heavy():
    """NumPy, torch, SciPy and psutil are imported only by the functions that need them."""
    code = (
        "import sys, perstep.machine; "
        "print(sorted({'numpy', 'torch', 'scipy', 'psutil', 'threadpoolctl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_describing_imports_nothing_heavy():
    """Looking at versions does not import what is looked at."""
    code = (
        "import sys, perstep.machine; perstep.machine.describe(); "
        "print(sorted({'numpy', 'torch', 'scipy', 'psutil', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
