"""Settings of the server: each declared once; flags, EVOSERVE_* names and file keys follow from it.

Precedence: default < TOML file < EVOSERVE_* < command-line flag.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from evoserve.errors import ConfigError

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
QuantizationName = Literal["int8"]

SECRETS = ("api_key", "admin_key")


class Settings(BaseSettings):
    """Everything `evoserve serve` can be told; names follow vLLM's flags where the meaning does."""

    model_config = SettingsConfigDict(
        env_prefix="EVOSERVE_", frozen=True, extra="forbid", protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_key: str | None = Field(None, description="Key that clients must send as a bearer token.")
    api_key_file: Path | None = Field(
        None, description="File of further keys, KEY or NAME:KEY a line; followed as it changes."
    )
    guard_metrics: bool = Field(False, description="Ask for an API key at /metrics, too.")
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins whose web pages may call the API from a browser; '*' is any."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Requests a minute for each API key; default: no limit."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Tokens a minute, in and out, for each API key; default: no limit."
    )
    admin_key: str | None = Field(
        None,
        description="Key of /v1/recipes and /v1/aliases; without one only a loopback server has "
        "them.",
    )
    admin_key_file: Path | None = Field(
        None, description="File of further admin keys; as --api-key-file."
    )
    state: Path | None = Field(
        None, description="SQLite file that remembers recipes, aliases, history and pins."
    )
    watch: Path | None = Field(
        None, description="Folder of manifests whose changes are followed while serving."
    )
    watch_s: float = Field(2.0, gt=0, le=3600, description="Seconds between looks at --watch.")
    memory_bytes: int | None = Field(
        None, ge=1, description="Weights and KV caches of all loaded recipes; default: no limit."
    )
    load_timeout_s: float = Field(
        60.0, ge=0, le=86400, description="Longest a request waits for its recipe to be loaded."
    )
    catalogue: Path | None = Field(
        None, description="TOML file that names sources; default: models/catalogue.toml if there."
    )
    source_roots: tuple[Path, ...] = Field(
        (), description="Folders that local sources must lie in; empty: any folder is allowed."
    )
    device: str = Field("auto", description="torch device: auto, cpu, cuda or cuda:N.")
    dtype: DTypeName = Field("auto", description="Weights and KV cache: auto is fp32 on CPU.")
    quantization: QuantizationName | None = Field(
        None, description="Store matrices as int8, by output channel; default: as dtype says."
    )
    threads: int = Field(0, ge=0, description="CPU threads for building and running; 0: all cores.")
    enforce_eager: bool = Field(
        False, description="Plain torch: no compiled kernels on a CPU, no CUDA graphs on a GPU."
    )
    block_size: int = Field(16, ge=1, le=256, description="Tokens per KV cache block.")
    kv_cache_bytes: int = Field(
        512 * 2**20, ge=2**16, description="KV cache of one loaded recipe, in bytes."
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Longest prompt plus completion, in tokens; default: the model's."
    )
    max_num_seqs: int = Field(64, ge=1, description="Sequences run together per recipe.")
    max_num_batched_tokens: int = Field(
        512, ge=1, description="Tokens of one forward pass, prefill chunks included."
    )
    max_queue: int = Field(1024, ge=1, description="Requests waiting before 503 is answered.")
    enable_prefix_caching: bool = Field(True, description="Reuse KV blocks of equal prefixes.")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="Largest request body, in bytes.")
    max_head_bytes: int = Field(
        65_536, ge=1024, description="Largest head or trailer of a request, in bytes."
    )
    max_connections: int = Field(
        4096, ge=1, description="Open connections; more are answered with 503."
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="Longest prompt, in tokens; default: what the context holds."
    )
    max_n: int = Field(128, ge=1, description="Largest n of a request.")
    receive_timeout_s: float = Field(
        60.0, gt=0, description="Longest that a request may take to arrive, in seconds."
    )
    send_timeout_s: float = Field(
        60.0, gt=0, description="How long a client may take next to nothing of its answer, in s."
    )
    max_unread_bytes: int = Field(
        16 * 2**20, ge=65_536, description="What may wait for the reader of one streamed answer."
    )
    stall_s: float = Field(
        120.0, gt=0, description="How long one engine step may take before /live is 503."
    )
    drain_s: float = Field(
        30.0, ge=0, description="How long running requests may go on after SIGTERM, in seconds."
    )
    max_logprobs: int = Field(20, ge=0, le=100, description="Most top logprobs per token.")
    seed: int = Field(0, ge=0, description="Seed of sampling for requests that send none.")
    verify_digests: bool = Field(True, description="Check source digests that manifests carry.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe message to log."
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines of the log.")
    otlp_endpoint: str | None = Field(
        None, description="URL that OpenTelemetry traces are sent to (OTLP over HTTP); extra otel."
    )

    @field_validator(*SECRETS)
    @classmethod
    def _can_be_sent(cls, key: str | None) -> str | None:
        """An empty key, as of a variable that is set to nothing, would be everybody's."""
        if key is not None and (not key or key != key.strip()):
            raise ValueError("a key must not be empty nor begin or end with a blank")
        return key

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and environment only; `load_settings` adds the file below them."""
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings


def load_settings(file: Path | None = None, **flags: object) -> Settings:
    """Settings from `file` (TOML), the environment and `flags`; a flag of None counts as not given.

    Raises ConfigError that names the setting and the value.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    below = _read_file(file) if file else {}

    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **kwargs: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            above = super().settings_customise_sources(settings_cls, *args, **kwargs)
            return (*above, InitSettingsSource(settings_cls, init_kwargs=below))

    try:
        loaded = WithFile(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        value = "" if name in SECRETS else f" = {first['input']!r}"
        raise ConfigError(f"setting '{name}'{value}: {first['msg']}") from None
    return Settings.model_construct(**dict(loaded))


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"settings file {file}: {error}") from None
