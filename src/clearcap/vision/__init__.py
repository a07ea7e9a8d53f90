"""Image encoders, pretrained or compact, and the distillation that makes the compact one."""

from __future__ import annotations

from clearcap.vision.build import build_encoder, load_encoder
from clearcap.vision.compact import CompactEncoder, fold, load_compact
from clearcap.vision.distill import DistillConfig, DistillResult, distill
from clearcap.vision.interface import ImageEncoder
from clearcap.vision.pretrained import PretrainedEncoder, build_pretrained, load_pretrained
from clearcap.vision.teacher import Teacher, load_teacher

__all__ = [
    "CompactEncoder",
    "DistillConfig",
    "DistillResult",
    "ImageEncoder",
    "PretrainedEncoder",
    "Teacher",
    "build_encoder",
    "build_pretrained",
    "distill",
    "fold",
    "load_compact",
    "load_encoder",
    "load_pretrained",
    "load_teacher",
]
