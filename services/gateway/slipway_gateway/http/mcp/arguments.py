"""Arguments of the tools that the gateway itself offers, held to their models."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from slipway_chassis.errors import FieldViolation, InvalidArgument

Model = TypeVar("Model", bound=BaseModel)


class InvalidToolArguments(InvalidArgument):
    """The arguments do not fit the tool's schema."""

    reason = "INVALID_TOOL_ARGUMENTS"


def read(model: type[Model], arguments: dict[str, Any]) -> Model:
    """The arguments as the model has them; raises InvalidToolArguments, which names the fields."""
    try:
        return model.model_validate(arguments, strict=True)
    except ValidationError as error:
        faults = [
            FieldViolation(".".join(str(part) for part in item["loc"]), item["msg"])
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidToolArguments("the arguments do not fit the tool's schema", violations=faults) from None
