#!/usr/bin/env bash
# Trains the bundled captioner further on a GPU, from packed photos, and measures it there: recipes/gpu.sh PACKED OUT
#
#   PACKED  holds part1.tar, part2.tar ... of recipes/pack.py, and the folder captions/ of recipes/text_captions.py, if any
#   OUT     everything that is made; OUT/shards holds the weights at last, in files below 16 MiB
#
# PYTHONPATH=src CLEARCAP="python3 -m clearcap" runs it from a checkout on a machine that has torch and transformers. Give
# the same command again to go on; LIMIT is how many seconds this call may take (default 560). FINETUNE and REWARD are how
# many steps the stages have.
set -euo pipefail
PACKED=$1 OUT=$2
source "$(dirname "$0")/common.sh"
LIMIT=${LIMIT:-560} MODEL=${MODEL:-default}
END=$((SECONDS + LIMIT))

timed() { # NAME COMMAND...: a stage that is stopped at the limit; its checkpoint lets the next call go on
    local name=$1
    shift
    stage "$name" timeout --signal=INT $((END - SECONDS > 1 ? END - SECONDS : 1)) "$@"
}

mkdir -p "$OUT/photos"
unpack() { for part in "$PACKED"/part*.tar; do tar -xf "$part" -C "$OUT/photos"; done; }
stage unpack unpack
TINY="${STEPS:+train.steps=$STEPS train.photos=4 train.sample_every=0 train.tracker=none}"
TEXT=""
[ ! -e "$PACKED/captions/captions.jsonl" ] || TEXT="--text folder:$PACKED/captions:all"
timed finetune $CLEARCAP finetune "$MODEL" --data "folder:$OUT/photos:train" --watch "folder:$OUT/photos:dev" $TEXT \
    --out "$OUT/finetune" block=0 train.steps="${FINETUNE:-1500}" train.photos=96 $TINY
timed reward $CLEARCAP self-critical "$OUT/finetune/model" --data "folder:$OUT/photos:train" \
    --watch "folder:$OUT/photos:dev" --out "$OUT/reward" train.steps="${REWARD:-3000}" train.photos=128 views=6 $TINY \
    ${STEPS:+student.length=6 longest=8 shortest=5 views=1 kept_photos=2}
stage export $CLEARCAP export "$OUT/reward/model" "$OUT/model"
stage shards python3 "$(dirname "$0")/shards.py" "$OUT/model" "$OUT/shards"
$CLEARCAP bench throughput "$OUT"/photos/train/0000*.webp --model "$OUT/model" --device "${DEVICE:-cuda}" \
    | tee "$OUT/shards/bench.txt"
