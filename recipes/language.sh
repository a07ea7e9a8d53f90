#!/usr/bin/env bash
# Makes a captioner in another language from captions in it: recipes/language.sh LANGUAGE DATA OUT
#
#   LANGUAGE  its code, such as de; of some the words for left and right are known, and photos that no caption says them of
#             are mirrored in training. SIDES="..." in the environment gives the words of another language
#   DATA      photos with captions_train.jsonl and captions_dev.jsonl, lines of {"file_name": ..., "captions": [...]}, and,
#             if there are any, captions without photos in text.jsonl, lines of {"captions": [...]}
#   OUT       everything that is made; the model lies in OUT/model at last, with a scorer
#
# Kill it at any moment and give the same command again. Settings of the environment: BASE is the captioner whose image
# encoder is used as it is and whose denoiser is begun with (default the bundled model; OUT/model points to its weights),
# TEXT, FIT and REWARD how many steps each stage has, MORE further settings of the third, SHARE the reward's share of the mean
# (0.3). docs/languages.md says what every stage does.
set -euo pipefail
LANGUAGE=$1 DATA=$2 OUT=$3
HERE=$(dirname "$0")
source "$HERE/common.sh"
BASE=${BASE:-default}
case $LANGUAGE in
    de) SIDES=${SIDES:-links rechts linke linken linker linkes linkem rechte rechten rechter rechtes rechtem} ;;
    en) SIDES=${SIDES:-left right} ;;
    fr) SIDES=${SIDES:-gauche droite} ;;
    es) SIDES=${SIDES:-izquierda izquierdo derecha derecho} ;;
    *) SIDES=${SIDES:-} ;;
esac
MIRROR=true
if [ -z "$SIDES" ]; then MIRROR=false; fi
TRAIN=folder:$OUT/captions:train DEV=folder:$OUT/captions:dev
mkdir -p "$OUT"

# 1. Captions in one spelling.
stage captions python "$HERE/language_captions.py" "$DATA" "$OUT"
ALONE=()
if [ -s "$OUT/text/captions.jsonl" ]; then ALONE=(folder:"$OUT/text":all); fi

# 2. The text space, with capitals and accents.
stage text-space $CLEARCAP pretrain-text --data "$TRAIN" ${ALONE:+--data "$ALONE"} --out "$OUT/text-space" \
    cased=true vocab_size=4500 warmup=150 steps="${TEXT:-2500}" $TINY_TEXT

# 3. The denoiser by likelihood, begun with the base model's, over image tokens that are computed once.
stage fit $CLEARCAP train compact "text.source=$OUT/text-space" "text.sides=$SIDES" vision.kind=pair "vision.source=$BASE" \
    "train.denoiser=$BASE" denoiser.depth=4 denoiser.hidden=512 "data.corpus=$TRAIN" "data.watch=$DEV" \
    data.expected=false "data.features=$OUT/features" data.views=2 "data.mirror=$MIRROR" \
    ${ALONE:+"data.text=$ALONE"} ${ALONE:+train.text_only=0.125} \
    train.photos=32 train.copies=4 train.steps="${FIT:-2000}" train.lr=1e-3 train.muon_lr=1e-3 train.warmup=50 \
    train.ema=0.99 train.weight_decay=0.05 train.agreement=1 train.sample_every=500 train.save_every=100 \
    $TINY_DATA $TINY_FIT ${MORE:-} --out "$OUT/fit"

# 4. The few steps by reward, over the same tokens.
stage reward $CLEARCAP self-critical "$OUT/fit/model" --data "$TRAIN" ${ALONE:+--text "$ALONE"} --watch "$DEV" \
    "features=$OUT/features" views=2 seldom=0 shortest=5 longest=14 student.length=9 train.photos=32 \
    train.steps="${REWARD:-1300}" train.ema=0.99 train.neighbour_captions=0 kept_photos=8 train.sample_every=250 \
    ${STEPS:+train.steps=$STEPS train.photos=6 kept_photos=2 watch_photos=2 train.sample_every=0 train.tracker=none} \
    --out "$OUT/reward"

# 5. Between the two: what many say, in sentences.
stage average python "$HERE/average.py" "$OUT/fit/model" "$OUT/reward/model" "$OUT/average" "${SHARE:-0.3}"

# 6. At half the size, without the encoder, which is the base model's; three calls, one draw of each of nine lengths, of
#    which the one that agrees most with the others is said.
stage export $CLEARCAP export "$OUT/average/model" "$OUT/model" --shares "$BASE" ${STEPS:+--no-graphs} --set steps=3 \
    --set length=9 --set min_length=6 --set max_length=14 --set candidates=9 --set select=mbr

# 7. A scorer of photos and captions beside it, which candidates may be chosen by: --select similarity. It is not needed
#    to caption. A step of it tells as many photos apart as there are, up to 384.
APART=$(wc -l < "$OUT/captions/captions_train.jsonl")
APART=$((APART < 384 ? APART : 384))
stage scorer $CLEARCAP train-scorer "$OUT/model" --data "$TRAIN" --watch "$DEV" "train.photos=$APART" \
    ${STEPS:+train.steps=$STEPS train.sample_every=0 train.tracker=none} --out "$OUT/scorer"
stage beside cp "$OUT/scorer/scorer.safetensors" "$OUT/model"
