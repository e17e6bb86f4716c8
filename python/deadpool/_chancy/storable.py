"""What a job leaves behind, as Chancy's database can store it.

Chancy writes the ends of many jobs in one transaction. Postgres takes no NUL character, half of a
surrogate pair or NaN in JSON. With a batch that it refuses, Chancy's task that writes is over, and no
job's end is recorded any more. So nothing that would be refused may get there.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import psycopg
from chancy.job import QueuedJob
from psycopg.adapt import PyFormat
from psycopg.types.json import Json

# Postgres refuses a quarter of a GiB, and whoever looks at a job wants to wait for much less.
_MOST_META_MIB = 64
_MOST_ERROR_CHARACTERS = 1_000_000

# How much deeper than here the stack may be where the database is written to and read from.
_SPARE_DEPTH = 100

# Errors are a list of dictionaries; what is deeper was left there by a job.
_ERRORS_DEPTH = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EndingJob(QueuedJob):  # type: ignore[misc]  # Chancy has no types.
    """A job whose copies are plain ones, with errors that can be stored.

    Chancy's ``on_job_completed`` adds the error to a copy of the job, which it gives to plugins and to
    the worker. So this is where the error's text can be seen before anybody else has it.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", _cleaned(self.errors))
        object.__setattr__(self, "__class__", QueuedJob)


def ending(job: QueuedJob) -> QueuedJob:
    """Return the job as Chancy's ``on_job_completed`` should get it.

    What it makes of it has errors in which the characters that can't be stored are escaped.
    """
    made = object.__new__(_EndingJob)
    made.__dict__.update(vars(job))
    return made


def meta_fault(meta: Any) -> str | None:
    """Return why a job's meta can't be stored; None if it can."""
    if not meta:
        return None
    fault = _fault(meta)
    if fault is None or not isinstance(meta, dict):
        return fault
    for key, value in meta.items():
        if (of_one := _fault({key: value})) is not None:
            return f"{key!r}: {of_one}"
    return fault


def storable_meta(meta: Any) -> dict[Any, Any]:
    """Return what of a job's meta can be stored."""
    if not isinstance(meta, dict):
        return {}
    kept = {key: value for key, value in meta.items() if _fault({key: value}) is None}
    return kept if _fault(kept) is None else {}


def _fault(value: Any) -> str | None:
    for _ in range(_SPARE_DEPTH):
        value = [value]
    try:
        # As it is written: users may have told psycopg to write more than JSON has.
        dumper = psycopg.adapters.get_dumper(Json, PyFormat.TEXT)(Json)
        written = bytes(dumper.dump(Json(value)) or b"")
        read = json.loads(written, parse_constant=_refuse)
        plain = json.dumps(read, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it has half of a surrogate pair, which is no character"
    except RecursionError:
        return "it is nested too deeply"
    except Exception as error:
        return str(error)
    if len(written) > _MOST_META_MIB << 20:
        return f"it takes {len(written) / (1 << 20):.1f} MiB, and {_MOST_META_MIB} are the most"
    # A backslash before it is escaped itself.
    if b"\\u0000" in plain.replace(b"\\\\", b""):
        return "it has the character NUL"
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"it has {constant}, which is no number in JSON")


def _cleaned(value: Any, depth: int = _ERRORS_DEPTH) -> Any:
    """Return errors with what can't be stored in them escaped; text that is very long is cut."""
    if isinstance(value, str):
        return _cleaned_text(value)
    if isinstance(value, (list, tuple)) and depth > 0:
        return [_cleaned(part, depth - 1) for part in value]
    if isinstance(value, dict) and depth > 0:
        return {_cleaned_text(str(key)): _cleaned(part, depth - 1) for key, part in value.items()}
    if isinstance(value, (int, float)) and _fault([value]) is None:
        return value
    return _cleaned_text(repr(value))


def _cleaned_text(text: str) -> str:
    left_out = len(text) - _MOST_ERROR_CHARACTERS
    if left_out > 0:
        half = _MOST_ERROR_CHARACTERS // 2
        text = f"{text[:half]}\n... {left_out} characters are left out here ...\n{text[-half:]}"
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
