"""A judge by the words a command gives: a name, and where its model is."""

from __future__ import annotations

from trimtab.errors import UserError
from trimtab.evaluate.backends import BackedJudge, LocalModel, RemoteModel
from trimtab.evaluate.endpoint import Endpoint
from trimtab.evaluate.judges import MODEL_JUDGES
from trimtab.evaluate.judges.base import Judge
from trimtab.evaluate.judges.function import FunctionJudge
from trimtab.evaluate.judges.phrases import PhraseJudge


def judge_named(spec: str) -> Judge:
    """The judge of NAME, NAME=MODEL, NAME=URL/MODEL, or module:function.

    NAME alone runs the judge's own model in Transformers, NAME=MODEL another, such as a copy in a
    folder; a URL ends in /v1, as in qwen3guard=http://localhost:8000/v1/Qwen/Qwen3Guard-Gen-4B,
    and without a model after it the judge's own is asked for. No model is loaded yet.

    Raises:
        UserError: no such judge, or one that has no model of its own and is given none.
    """
    name, _, where = spec.partition("=")
    if name == PhraseJudge.name:
        return PhraseJudge()
    if ":" in name:
        return FunctionJudge.named(name)
    kinds = {kind.name: kind for kind in MODEL_JUDGES}
    if name not in kinds:
        names = ", ".join([*kinds, PhraseJudge.name])
        raise UserError(f"--judge {name}: no such judge. Give {names}, or module:function.")
    own = kinds[name]()
    is_remote = where.startswith(("http://", "https://"))
    server, _, named = where.partition("/v1/") if is_remote else ("", "", where)
    model = named or own.model
    if not model:
        raise UserError(
            f"--judge {name} has no model of its own. Give {name}=MODEL, or "
            f"{name}=http://localhost:8000/v1/MODEL."
        )
    if is_remote:
        url = server if server.endswith("/v1") else f"{server}/v1"
        return BackedJudge(own, RemoteModel(Endpoint(url, model)))
    return BackedJudge(own, LocalModel(model, None if named else own.revision))
