"""Rewriters: the ways of turning a serialised text into other texts that tell the same events."""

from skllm4es.rewriters._base import Rewriter, RewritingError, StreamingRewriter
from skllm4es.rewriters._template import TemplateRewriter, available_formats

__all__ = ["Rewriter", "RewritingError", "StreamingRewriter", "TemplateRewriter", "available_formats"]
