#!/usr/bin/env bash
# The overlaps by words of docs/reproduction.md alone. They need the prompts and the tokenizer's
# limits, not the model that reproduce.sh aligns: a few minutes on a core.
#
#     docs/reproduction/overlap.sh DATA RUNS
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) data=$1 runs=$2
trimtab audit --model smollm2 --max-prompt 48 --max-response 64 --rows 20 \
  --landscape none --embedding words --original "$data/instructions-gpt4_0314.jsonl.gz" \
  --safety gpt4-0613="$data/instructions-gpt4_0613.jsonl.gz" \
  --safety alpaca-7b="$data/instructions-alpaca-7b.jsonl.gz" \
  --task alpaca="$data/alpaca.jsonl.gz" --task code="$data/code-alpaca-davinci003.jsonl.gz" \
  --out "$runs/overlap-words"
python "$here/write.py" --overlap "$runs/overlap-words"
