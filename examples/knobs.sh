#!/bin/sh
# What depth, context and output length cost, on the built-in model. ROUNDS=20 for a first look, more for narrow intervals.
set -eu
rounds=${ROUNDS:-20}
perstep depth -m mini -p 16 -n 8 --num-active-blocks 1-4 --rounds "$rounds" --quality-tokens 32
perstep context -m mini -p 16-128*2 -n 4 --rounds "$rounds"
perstep output -m mini -p 16 -n 4,8,16 --rounds "$rounds"
perstep list
