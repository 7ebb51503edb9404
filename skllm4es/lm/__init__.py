"""The language model: loading, packing, fine-tuning and pooling, in torch and transformers, without scikit-learn.

`LLMEmbedder` is built on this; nothing here knows of estimators or of events.
"""
