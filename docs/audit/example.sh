#!/usr/bin/env bash
# The worked example of docs/audit.md: an audit of the demo's data, in the folder of 'trimtab demo'.
#
#     trimtab demo --out demo && docs/audit/example.sh demo > docs/audit/example.txt
set -euo pipefail
demo=$1
COLUMNS=110 trimtab audit --model "$demo/aligned" --original "$demo/data/original.jsonl" \
  --safety near="$demo/data/safety-near.jsonl" --safety far="$demo/data/safety-far.jsonl" \
  --task separate="$demo/data/task-separate.jsonl" --task mixed="$demo/data/task-mixed.jsonl" \
  --rows 1000 --max-prompt 16 --max-response 16 --landscape full --landscape-rows 128 --repeats --out "$demo"
