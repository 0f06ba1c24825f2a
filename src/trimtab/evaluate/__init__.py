"""Safety as what a model answers: answers are generated once, judged, and counted.

    prompts (harmful, benign) → answers, kept → coherence, judges → outcomes → rates and agreement

A judge is a file in `judges`; an answer has one of four outcomes, or is unparsed.
"""
