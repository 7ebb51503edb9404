"""From texts to one vector per user: `LLMEmbedder`, what it reads off a model, and how the model is trained."""
