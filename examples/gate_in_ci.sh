#!/bin/sh
# A gate: the same benchmark before and after a change, in turns, so that no spread of runs must be known.
# BEFORE and AFTER are commands. Exit 0: not slower beyond doubt. Exit 1: slower. It needs no GPU and no torch.
set -eu
before=${BEFORE:-python -c pass}
after=${AFTER:-python -c pass}
perstep compare --live "$before" "$after" --rounds "${ROUNDS:-20}" -o json -q > comparison.json
python - <<'PY'
import json
import sys

found = json.load(open("comparison.json"))
new = list(found["arms"].values())[1]["wall"]
print(f"{new['verdict']}: {new['change']} [{new['ci_low']}, {new['ci_high']}]")
sys.exit(new["verdict"] == "slower" and new["ci_low"] > 0.05)
PY
