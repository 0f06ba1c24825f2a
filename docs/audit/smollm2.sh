#!/usr/bin/env bash
# Does the audit, run without training, order proxies as training does? SmolLM2-135M-Instruct, the
# paired files described in smollm2-instructions.yaml and smollm2-do-not-answer.yaml. Three quarters
# of an hour or so on two cores; stop it at any time, the same command goes on.
#
#     docs/audit/smollm2.sh DATA OUT
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) data=$1 out=$2/instructions safe=$2/do-not-answer
trimtab sweep "$here/smollm2-instructions.yaml" --data-root "$data" --out "$out"
trimtab audit --model "$out/aligned" --max-prompt 48 --max-response 48 --rows 100 --landscape none \
  --original "$data/instructions-gpt4_0314.jsonl.gz" \
  --safety gpt4-0613="$data/instructions-gpt4_0613.jsonl.gz" \
  --safety claude="$data/instructions-claude.jsonl.gz" \
  --safety vicuna-7b="$data/instructions-vicuna-7b-v1.3.jsonl.gz" \
  --safety davinci-003="$data/instructions-text_davinci_003.jsonl.gz" \
  --safety alpaca-7b="$data/instructions-alpaca-7b.jsonl.gz" \
  --task alpaca="$data/alpaca.jsonl.gz" --out "$out"
python "$here/smollm2.py" "$out" "$here/smollm2.json"

trimtab sweep "$here/smollm2-do-not-answer.yaml" --data-root "$data" --out "$safe"
trimtab audit --model "$safe/aligned" --max-prompt 48 --max-response 48 --rows 100 --landscape none \
  --original "$data/do-not-answer-gpt4.jsonl.gz" --original-where harmful=0 \
  --safety chatgpt="$data/do-not-answer-chatgpt.jsonl.gz" \
  --safety llama2-7b-chat="$data/do-not-answer-llama2-7b-chat.jsonl.gz" --safety-where harmful=0 \
  --task alpaca="$data/alpaca.jsonl.gz" --out "$safe"
python "$here/smollm2.py" "$safe" "$here/do-not-answer.json"
