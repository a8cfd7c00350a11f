"""Run pytest while other processes keep the machine busy: no test may depend on the load (`make busy`).

python tests/busy.py 20 -- -m real_clock
python tests/busy.py 6 --times 3 -- -n 2
"""

import argparse
import subprocess
import sys

# Ends with the process that started it, however that ends.
BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))\n"


def main() -> int:
    """The exit code of the first run that failed, or 0."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--times TIMES] PROCESSES [-- OPTIONS OF PYTEST]",
    )
    parser.add_argument("processes", type=int, help="how many busy processes run beside the tests")
    parser.add_argument("--times", type=int, default=1, help="how often the tests are run (1)")
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:at])  # argparse of Python 3.11 refuses what follows `--` behind an option
    options = given[at + 1 :]
    busy = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(asked.processes)]
    try:
        for number in range(1, asked.times + 1):
            print(f"run {number} of {asked.times} beside {asked.processes} busy processes", flush=True)
            code = subprocess.run([sys.executable, "-m", "pytest", *options], check=False).returncode
            if code:
                return code
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
