#!/usr/bin/env bash
# The table of overlaps in docs/audit.md, by words, from the folder of data that smollm2.sh reads.
# A few minutes, most of them for the model's look at 20 rows of each file, which overlap does not need.
#
#     docs/audit/overlap.sh DATA OUT
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) data=$1 out=$2
trimtab audit --model smollm2 --max-prompt 48 --max-response 48 --rows 20 --landscape none \
  --embedding words --original "$data/instructions-gpt4_0314.jsonl.gz" \
  --safety alpaca-eval="$data/instructions-gpt4_0613.jsonl.gz" \
  --safety alpaca-demo="$data/alpaca-gpt4-demo.jsonl.gz" \
  --safety do-not-answer="$data/do-not-answer-gpt4.jsonl.gz" \
  --task alpaca-demo="$data/alpaca-davinci003-demo.jsonl.gz" \
  --task alpaca="$data/alpaca.jsonl.gz" \
  --task dolly-sensitive="$data/dolly-sensitive.jsonl.gz" \
  --task code="$data/code-alpaca-davinci003.jsonl.gz" \
  --task mbpp="$data/mbpp.jsonl.gz" --task gsm8k="$data/gsm8k-train.jsonl.gz" --out "$out"
python "$here/overlap.py" "$out"
