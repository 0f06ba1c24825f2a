#!/usr/bin/env bash
# An adapter on smollm2 in lm-eval and Inspect, beside what it refuses, in some minutes:
# docs/evaluate/harnesses.sh DATA FOLDER > docs/evaluate/harnesses.txt
set -euo pipefail
data=$(realpath "$1") here=$(realpath "$(dirname "$0")")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 COLUMNS=200
mkdir -p "$2"
cd "$2"

python "$here/tasks.py" "$data" tasks
cp "$here/gsm8k.py" tasks
[ -e coded ] || python -m trimtab train --model smollm2 --penalty 0 --out coded \
  --task "$data/code-alpaca-davinci003.jsonl.gz" --safety "$data/safety-refusals.jsonl.gz" \
  --steps 8 --lora-rank 4 --learning-rate 2e-3 --batch-size 4 --held-out-rows 8 \
  --max-prompt 96 --max-response 96 >&2
python -m trimtab evaluate smollm2 coded/models/plain--task--seed-0 --out judged \
  --lm-eval code_choice,gsm8k_local --lm-eval-path tasks --inspect tasks/gsm8k.py@gsm8k --limit 12 \
  --harmful "$data/advbench.jsonl.gz" --benign "$data/alpaca.jsonl.gz" --rows 12 \
  --judge phrases --max-tokens 32 | sed "s#${TRIMTAB_CACHE:-$HOME/.cache/trimtab}#CACHE#g; s#$PWD/##g; s/ *$//"
