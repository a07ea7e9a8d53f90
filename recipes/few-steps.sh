#!/usr/bin/env bash
# Makes `few-steps`, which captions in one or two steps without guidance: recipes/few-steps.sh DATA OUT
#
#   DATA  holds flickr8k/
#   OUT   where recipes/default.sh has made its model; few-steps lies in OUT/model/few-steps at last
#
# Kill it at any moment and give the same command again. TEACHER=FOLDER names another captioner to start from.
set -euo pipefail
DATA=$1 OUT=$2
source "$(dirname "$0")/common.sh"
TEACHER=${TEACHER:-$OUT/captioner7/model}

stage few-steps $CLEARCAP distill-steps "$TEACHER" --data "flickr8k:$DATA/flickr8k:train" \
    --watch "flickr8k:$DATA/flickr8k:dev" --out "$OUT/few-steps" features="$OUT/features-few" views=1 variants=2 \
    teacher.steps=10 teacher.early_exit=2 train.steps=400 train.photos=96 train.sample_every=200 \
    ${STEPS:+train.steps=$STEPS train.photos=4 train.sample_every=0 train.tracker=none watch_photos=2}

# Without the weights that are the other model's too.
stage export-few-steps $CLEARCAP export "$OUT/few-steps/model" "$OUT/model/few-steps" --shares "$OUT/model"
