# Makes the runs of tests/golden/. Run in an empty folder that holds a copy of calls.py; python is perstep's.
set -eu
export OMP_NUM_THREADS=1
step() { rm -rf "$1"; shift_name=$1; shift; perstep "$@" --out "$shift_name" -q > "$shift_name.txt" || test $? = 3; }
step ledger ledger -m mini -p 8 -n 6 --rounds 24
step cache cache -m mini --context 8,16 --rounds 20
step mask mask --vocab mini --engine naive,table -n 8 --rounds 20
step ops ops --arch tiny.json --seq 1,8,16 --rounds 20
step generate generate -n 6 --rounds 20
step compare compare --live 'python -c pass' 'python -c 0' --rounds 20
step depth depth -m mini -p 8 -n 6 --num-active-blocks 1-3 --rounds 20 --quality-tokens 32
step experts experts --arch olmoe.json -p 8 -n 4 --top-k 1,2 --rounds 20 --quality-tokens 16
step context context -m mini -p 8,16 -n 4 --rounds 20
step output output -m mini -p 8 -n 2,4,8 --rounds 20
