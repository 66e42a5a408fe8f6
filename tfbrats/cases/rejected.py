"""A case that cannot be used, and why: whoever works on it, the same words. Reads no file."""

import traceback

import pydantic

from tfbrats.errors import InputError

LIST_FAULTS = "tfbrats inspect lists every fault of every case"
_REPORT = "this is not expected; please report it with the case's header"


class Rejected(pydantic.BaseModel):
    """A case that cannot be used, and why: a line of rejected.jsonl, and of a shard in dataset.json.

    Attributes:
        stage: of the work on the case, that it did not pass.
        reason: what is wrong, as a sentence or several.
        hint: what to do.
        traceback: of an error that nobody expected, for a log, else empty; not in the JSON.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    case_id: str
    stage: str
    reason: str
    hint: str
    traceback: str = pydantic.Field(default="", exclude=True, repr=False)

    @classmethod
    def by(cls, error: Exception, case_id: str, stage: str, hint: str = LIST_FAULTS) -> "Rejected":
        """What an error in the work on a case means: a fault of the case, or one of ours.

        Args:
            hint: what to do about an `InputError`; any other error is to be reported.
        """
        if isinstance(error, InputError):
            return cls(case_id=case_id, stage=stage, reason=str(error), hint=hint)
        return cls(
            case_id=case_id,
            stage=stage,
            reason=f"{type(error).__name__}: {error}",
            hint=_REPORT,
            traceback="".join(traceback.format_exception(error)),
        )
