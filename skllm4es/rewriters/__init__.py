"""Rewriters, which turn a serialised text into other texts that describe the same events."""

from skllm4es.rewriters._base import Rewriter, RewritingError, StreamingRewriter, available_formats
from skllm4es.rewriters._hkfr import HKFRRewriter
from skllm4es.rewriters._openai import OpenAIRewriter
from skllm4es.rewriters._template import TemplateRewriter
from skllm4es.rewriters._transformers import TransformersRewriter
from skllm4es.rewriters._trsr import TRSRRewriter

__all__ = [
    "HKFRRewriter",
    "OpenAIRewriter",
    "Rewriter",
    "RewritingError",
    "StreamingRewriter",
    "TRSRRewriter",
    "TemplateRewriter",
    "TransformersRewriter",
    "available_formats",
]
