"""What to cite, for every model card."""

from __future__ import annotations

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
