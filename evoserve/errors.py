"""The one tree of errors; `evoserve.api.errors` maps it to HTTP and `evoserve.cli` to exit codes.

EvoServeError
|-- InputError                  the caller's fault: exit code 2, HTTP 4xx
|   |-- ManifestError           a manifest is malformed or contradicts itself
|   |-- SourceError             a source cannot be found, read or trusted
|   |   `-- DigestMismatch      its bytes are not the ones the manifest names
|   |-- IncompatibleSources     shapes, vocabularies or architectures do not fit together
|   |-- UnsupportedModel        a family, activation or feature this runtime does not implement
|   |-- ConfigError             a setting is wrong
|   |-- ConflictError           right by itself, but not as things stand (HTTP 409)
|   `-- RequestError            a field of an API request is wrong
|       |-- UnknownModel        no such model id (HTTP 404)
|       |-- UnknownRecipe       no such recipe or alias is registered (HTTP 404)
|       |-- RateLimited         a key has used up its minute (HTTP 429)
|       `-- ContextLengthError  prompt plus completion do not fit
|-- CapacityError               right, but not now: memory or queue is full (HTTP 503)
|   `-- StateError              the state file cannot be written (HTTP 503)
`-- EngineError                 our fault: exit code 1, HTTP 500
"""


class EvoServeError(Exception):
    """Any error this project raises on purpose; its message is written for the user."""


class InputError(EvoServeError):
    """Something the caller gave is wrong; the message names it, its value and the way out."""


class ManifestError(InputError):
    """A manifest is wrong at `where` (a JSON path such as `merges.ps.densities.math[0]`)."""

    def __init__(self, message: str, *, where: str = "", file: str = "") -> None:
        prefix = ": ".join(part for part in (file, where) if part)
        super().__init__(f"{prefix}: {message}" if prefix else message)
        self.message = message
        self.where = where
        self.file = file

    def in_file(self, file: str) -> "ManifestError":
        """The same error, naming the file it was found in."""
        return type(self)(self.message, where=self.where, file=file)


class SourceError(InputError):
    """A source checkpoint, adapter or tokenizer cannot be found, read or trusted."""


class DigestMismatch(SourceError):
    """A source's files are not the ones whose digest the manifest carries."""


class IncompatibleSources(InputError):
    """Sources of one recipe differ in shape, vocabulary or architecture."""


class UnsupportedModel(InputError):
    """A model family or feature that this runtime does not implement."""


class ConfigError(InputError):
    """A setting (file, EVOSERVE_* variable or flag) is wrong."""


class ConflictError(InputError):
    """Right by itself, but not as things stand: still in use, or too large for the memory."""


class RequestError(InputError):
    """A request field is wrong; `param` names it, `code` is OpenAI's machine-readable string."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnknownModel(RequestError):
    """The requested model id is not served here."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model '{model}' does not exist; GET /v1/models lists what is served.",
            param="model",
            code="model_not_found",
        )


class UnknownRecipe(RequestError):
    """No recipe or alias of this name is registered; `kind` says which was looked for."""

    def __init__(self, name: str, kind: str = "recipe") -> None:
        plural = {"recipe": "recipes", "alias": "aliases"}[kind]
        super().__init__(
            f"There is no {kind} '{name:.200}'; GET /v1/{plural} lists what there is.",
            param=kind,
            code=f"{kind}_not_found",
        )


class RateLimited(RequestError):
    """A key has used up its `kind` (requests or tokens); more come after `retry_after_s`."""

    def __init__(self, message: str, *, kind: str, retry_after_s: float) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.kind = kind
        self.retry_after_s = retry_after_s


class ContextLengthError(RequestError):
    """The prompt, or prompt plus requested completion, exceeds the model's context."""

    def __init__(self, message: str, *, param: str = "messages") -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class CapacityError(EvoServeError):
    """The request is right but does not fit now; trying again later may succeed.

    retry_after_s: when it may, None where that is not known.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StateError(CapacityError):
    """The state file cannot be written, for one because the disk is full; nothing was changed."""


class EngineError(EvoServeError):
    """The engine failed; not the caller's fault."""
