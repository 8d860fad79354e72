"""`tost serve`: transformers' server with one of our models in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from tost.extras import require
from tost.shipped import run_or_shipped

# A model of plain text has no roles: a chat is the messages one after the other, each on lines of its own.
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"


def serve(
    run: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    position_mode: Literal["learned", "clamped"] = "clamped",
    device: str | None = None,
) -> None:
    """Answer clients of the OpenAI protocol: /v1/completions, /v1/chat/completions, /v1/models; until Ctrl-C.

    Args:
        run: folder of a finished run, stdlib (comes with the package), a folder of save_pretrained, or a model on the
            Hub
        host: address to listen at; the default answers this machine alone
        port: port to listen at
        name: what clients call the model (default: the run's name)
        position_mode: clamped = go on past a table of learned positions; learned = refuse to
        device: cpu, cuda, ... (default: cuda where there is one)
    """
    require("openai", extra="serve")
    uvicorn = require("uvicorn", extra="serve")
    require("fastapi", extra="serve")
    from transformers.utils import logging

    model, tokenizer = load_served(str(run_or_shipped(run)), position_mode, device)
    name = name or Path(run).name
    logging.set_verbosity_error()
    print(f"{name} at http://{host}:{port}/v1 (Ctrl-C ends it)", flush=True)
    uvicorn.run(build_app(name, model, tokenizer), host=host, port=port, log_level="warning")


def load_served(run: str, position_mode: str, device: str | None) -> tuple[Any, Any]:
    """A model that samples unless a request says otherwise, and a tokenizer that can write a chat."""
    from tost.generation.load import load_language
    from tost.generation.text import Sampling, end_tokens
    from tost.models.language import ToSTConfig

    model, tokenizer = load_language(run, device=device)
    if isinstance(model.config, ToSTConfig) and model.config.position_mode == "learned" != position_mode:
        model, tokenizer = load_language(run, device=device, position_mode=position_mode)
    ends = end_tokens(model, tokenizer)
    defaults = {**Sampling().options(), **({"eos_token_id": ends, "pad_token_id": ends[0]} if ends else {})}
    model.generation_config.update(**defaults)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_CHAT
    return model, tokenizer


def build_app(name: str, model: Any, tokenizer: Any) -> Any:
    """transformers' FastAPI application, answering with `model` under `name`."""
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.systemone import SystemOneHandler
    from transformers.cli.serving.transcription import TranscriptionHandler
    from transformers.cli.serving.utils import GenerationState, Modality

    class OneModel(ModelManager):
        """Holds the model that is already loaded; transformers' own finds classes of its package alone."""

        def load_model_and_processor(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            return model, tokenizer

        @staticmethod
        def get_model_modality(*args: Any, **kwargs: Any) -> Modality:
            return Modality.LLM

        @staticmethod
        def get_gen_models(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:  # type: ignore[override]
            return [{"id": name, "object": "model", "created": int(time.time()), "owned_by": "tost"}]

    manager, state = OneModel(force_model=name), GenerationState()
    given: Any = {"model_manager": manager, "generation_state": state}
    app = build_server(
        manager,
        ChatCompletionHandler(**given),
        completion_handler=CompletionHandler(**given),
        response_handler=ResponseHandler(**given),
        transcription_handler=TranscriptionHandler(manager, state),
        systemone_handler=SystemOneHandler(**given),
        generation_state=state,
    )
    app.add_exception_handler(ValueError, refuse)
    return app


def refuse(request: Any, error: Exception) -> Any:
    """A request that the model cannot answer, such as an empty prompt, told in the protocol's form."""
    from fastapi.responses import JSONResponse

    told = " ".join(str(error).split())
    return JSONResponse({"error": {"message": told, "type": "invalid_request_error"}}, status_code=400)
