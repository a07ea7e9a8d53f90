#!/usr/bin/env bash
# Fine-tunes a captioner on captioned photos of one's own, and scores it before and after: recipes/finetune.sh FOLDER OUT
#
#   FOLDER  photos with captions_train.jsonl and captions_val.jsonl, lines of {"file_name": ..., "captions": [...]}, or
#           any other layout of the folder reader with the splits train and val
#   OUT     everything that is made; the model lies in OUT/model at last
#
# Kill it at any moment and give the same command again. Settings of the environment: MODEL is what is fine-tuned (default
# the bundled model), FINETUNE and REWARD how many steps each stage has (default 300 and 400, about a quarter of an hour of
# two cores). On a GPU, where there is one.
set -euo pipefail
FOLDER=$1 OUT=$2
source "$(dirname "$0")/common.sh"
MODEL=${MODEL:-default}
TRAIN=folder:$FOLDER:train VAL=folder:$FOLDER:val

score() { # NAME MODEL: captions and scores of the held-out photos, in OUT/NAME
    stage "$1" $CLEARCAP evaluate --model "$2" --data "$VAL" --out "$OUT/$1"
}

mkdir -p "$OUT"
score before "$MODEL"
stage finetune $CLEARCAP finetune "$MODEL" --data "$TRAIN" --watch "$VAL" --out "$OUT/finetune" \
    train.steps="${FINETUNE:-300}" ${STEPS:+train.steps=$STEPS train.photos=4 train.sample_every=0 train.tracker=none block=3}
stage reward $CLEARCAP self-critical "$OUT/finetune/model" --data "$TRAIN" --watch "$VAL" --out "$OUT/reward" \
    train.steps="${REWARD:-400}" ${STEPS:+train.steps=$STEPS train.photos=4 train.sample_every=0 train.tracker=none student.length=6 longest=8 shortest=5 kept_photos=2}
stage export $CLEARCAP export "$OUT/reward/model" "$OUT/model"
score after "$OUT/model"
$CLEARCAP evaluate --compare "$OUT/before" "$OUT/after"
