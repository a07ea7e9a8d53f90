"""Score two systems' captions of the same photos, and say whether they differ: python examples/score_captions.py"""

from clearcap.metrics import score
from clearcap.metrics.significance import compare, intervals

references = {
    "beach.jpg": ["a dog runs along the beach", "a brown dog is running on the sand"],
    "kitchen.jpg": ["a man cooks in a kitchen", "a cook stands at a stove"],
    "street.jpg": ["a red bus drives down a street", "a double decker bus on a city street"],
}
ours = {
    "beach.jpg": "a dog running on the beach",
    "kitchen.jpg": "a man cooks in a kitchen",
    "street.jpg": "a red bus on a street",
}
theirs = {"beach.jpg": "an animal outside", "kitchen.jpg": "a man in a kitchen", "street.jpg": "a bus"}

ours_scored, theirs_scored = score(ours, references), score(theirs, references)
for name, interval in intervals(ours_scored).items():
    print(f"{name:8} {interval.estimate:.4f}  [{interval.low:.4f}, {interval.high:.4f}]")
print("beach.jpg:", {name: round(column["beach.jpg"], 3) for name, column in ours_scored.per_caption.items()})
for name, comparison in compare(ours_scored, theirs_scored).items():
    print(f"{name:8} {comparison.difference.estimate:+.4f}  p = {comparison.p_permutation:.3f}")
