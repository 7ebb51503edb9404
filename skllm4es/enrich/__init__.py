"""From texts to texts to train on: `TextEnricher`, the faithfulness of rewritings, and their cache."""
