"""CloudFormation's functions (Ref, Sub, If, Join …) worked out as far as one machine can.

What only a deployment knows (the ARN of a secret, the address of an API) raises UnresolvedError, so that the
reader of the template can ask for an override instead of running with a made-up value.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

REGION = "us-east-1"
ACCOUNT = "000000000000"

_PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "okane",
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/okane/local",
    "AWS::URLSuffix": "amazonaws.com",
}
_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")
NO_VALUE = object()  # what AWS::NoValue stands for: the property is not there


class UnresolvedError(Exception):
    """A value that only a deployment knows; the text is the expression."""


def function_arn(name: str) -> str:
    """The ARN that a local function goes by."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


class Resolver:
    """The template's parameters, mappings and conditions, and the values they give."""

    def __init__(self, document: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self._parameters: dict[str, Any] = {}
        for name, declared in (document.get("Parameters") or {}).items():
            kind = str(declared.get("Type", "String"))
            given = parameters.get(name)
            if given is None and kind.startswith("AWS::SSM::"):
                continue  # its default is the name of a stored value, not the value
            value = declared.get("Default") if given is None else given
            if value is not None:
                text = scalar(value)
                is_list = kind == "CommaDelimitedList" or kind.startswith("List<")
                self._parameters[name] = [item.strip() for item in text.split(",")] if is_list else text
        self._mappings: Mapping[str, Any] = document.get("Mappings") or {}
        self._conditions: Mapping[str, Any] = document.get("Conditions") or {}
        self._resources: Mapping[str, Any] = document.get("Resources") or {}

    def value(self, node: Any) -> Any:
        """The node with every function in it worked out; UnresolvedError if one cannot be."""
        if isinstance(node, list):
            values = [self.value(item) for item in node]
            return [item for item in values if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            name, argument = next(iter(node.items()))
            if name == "Ref" or name.startswith("Fn::"):
                return self._call(name, argument)
        pairs = ((key, self.value(item)) for key, item in node.items())
        return {key: item for key, item in pairs if item is not NO_VALUE}

    def condition(self, name: str) -> bool:
        """Whether a named condition of the template holds."""
        if name not in self._conditions:
            raise UnresolvedError(f"condition {name}")
        return self._holds(self._conditions[name])

    def _holds(self, node: Any) -> bool:
        name, argument = next(iter(node.items()))
        match name:
            case "Condition":
                return self.condition(argument)
            case "Fn::Equals":
                left, right = self.value(argument)
                return scalar(left) == scalar(right)
            case "Fn::And":
                return all(self._holds(item) for item in argument)
            case "Fn::Or":
                return any(self._holds(item) for item in argument)
            case "Fn::Not":
                return not self._holds(argument[0])
        raise UnresolvedError(f"!{name} in a condition")

    def _call(self, name: str, argument: Any) -> Any:
        match name.removeprefix("Fn::"):
            case "Ref":
                return self._ref(argument)
            case "GetAtt":
                return self._get_att(argument)
            case "Sub":
                return self._sub(argument)
            case "If":
                chosen = 1 if self.condition(argument[0]) else 2
                return self.value(argument[chosen])
            case "Join":
                separator, items = argument
                return str(separator).join(scalar(item) for item in self.value(items))
            case "Select":
                return self.value(argument[1])[int(self.value(argument[0]))]
            case "Split":
                return scalar(self.value(argument[1])).split(argument[0])
            case "Base64":
                return base64.b64encode(scalar(self.value(argument)).encode()).decode()
            case "FindInMap":
                where, first, second = self.value(argument)[:3]
                try:
                    return self._mappings[where][first][second]
                except KeyError as error:
                    raise UnresolvedError(f"!FindInMap {where}.{first}.{second}") from error
        raise UnresolvedError(f"!{name.removeprefix('Fn::')}")

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self._parameters:
            return self._parameters[name]
        if self._is_function(name):
            return self.function_name(name)
        raise UnresolvedError(f"!Ref {name}")

    def _get_att(self, argument: Any) -> str:
        name, _, attribute = (argument if isinstance(argument, str) else ".".join(argument)).partition(".")
        if attribute == "Arn" and self._is_function(name):
            return function_arn(self.function_name(name))
        raise UnresolvedError(f"!GetAtt {name}.{attribute}")

    def _sub(self, argument: Any) -> str:
        text, local = argument if isinstance(argument, list) else (argument, {})

        def put(found: re.Match[str]) -> str:
            literal, name = found[1], found[2].strip()
            if literal:
                return "${" + name + "}"
            if name in local:
                return scalar(self.value(local[name]))
            return scalar(self._get_att(name) if "." in name else self._ref(name))

        return _VARIABLE.sub(put, text)

    def _is_function(self, name: str) -> bool:
        return str((self._resources.get(name) or {}).get("Type")) == "AWS::Serverless::Function"

    def function_name(self, logical_id: str) -> str:
        """A function's FunctionName, or its logical id where a deployment would make one up."""
        given = (self._resources[logical_id].get("Properties") or {}).get("FunctionName")
        return logical_id if given is None else scalar(self.value(given))


def scalar(value: Any) -> str:
    """A YAML scalar as CloudFormation passes it on: always text. UnresolvedError for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise UnresolvedError("a value that is not text")
