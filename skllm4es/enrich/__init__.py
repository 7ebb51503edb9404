"""Enrichment of texts for training: `TextEnricher`, the faithfulness of rewritings, and their cache."""
