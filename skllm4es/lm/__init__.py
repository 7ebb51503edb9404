"""The language model: sources, windows, packing, fine-tuning, pooling and cache, in torch and transformers.

`LLMEmbedder` is built on this. Nothing in here imports scikit-learn or knows an estimator, though errors name
parameters of `LLMEmbedder` that mend them.
"""
