# What the recipes share. Settings of the environment:
#   STEPS     train every stage for so few steps, on so few photos at once, that the recipe itself can be tried
#   CLEARCAP  how the command is called; default clearcap

CLEARCAP=${CLEARCAP:-clearcap}

# Large tensors keep their memory between steps on a CPU (LOG.md, "Allocation on a CPU").
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

# Settings that make a stage tiny; none unless STEPS is set. Of settings given twice the last counts.
TINY_TEXT="${STEPS:+steps=$STEPS batch=8 min_count=1}"
TINY_ENCODER="${STEPS:+steps=$STEPS minutes=0 batch=4 workers=1}"
TINY_FIT="${STEPS:+train.steps=$STEPS train.photos=6 train.copies=2 train.sample_every=0 train.tracker=none}"
TINY_DATA="${STEPS:+data.expected=false data.watch_photos=2 data.views=2}"

# stage NAME COMMAND...: run a command once. One that was killed goes on where it stopped, one that is done is skipped.
stage() {
    local name=$1
    shift
    if [ ! -e "$OUT/done/$name" ]; then
        echo "== $name" >&2
        "$@"
        mkdir -p "$OUT/done" && touch "$OUT/done/$name"
    fi
}
