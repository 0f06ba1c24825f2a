"""What every model card has: metadata that the Hub reads, and what to cite."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from trimtab.config.model_names import hub_id

CITATION = """\
```bibtex
@article{chen2025fundamental,
  title   = {Fundamental Safety-Capability Trade-offs in Fine-tuning Large Language Models},
  author  = {Chen, Pin-Yu and Shen, Han and Das, Payel and Chen, Tianyi},
  year    = {2025},
  journal = {arXiv preprint arXiv:2503.20807},
  url     = {https://arxiv.org/abs/2503.20807}
}
@software{trimtab,
  title   = {trimtab: fine-tune a language model under a safety constraint, and measure what each
             gave up},
  author  = {{The trimtab contributors}},
  license = {Apache-2.0}
}
```"""


def card_metadata(
    model: str, is_adapter: bool, tags: Sequence[str], datasets: Sequence[str] = ()
) -> ModelCardData:
    """What the Hub reads of a model that was made from `model`. A licence is not known here."""
    return ModelCardData(
        base_model=hub_id(model) if model else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[*tags, *(["lora"] if is_adapter else [])],
        datasets=list(datasets) or None,
    )
