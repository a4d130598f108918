"""What the local platform needs to know from a SAM template: functions, routes, CORS, schedules.

    template = load(Path("template.yaml"), {"CorsOrigins": "http://localhost:5173"})
    template.functions["AuthFunction"].code       # the folder to run, absolute

A built template (.aws-sam/build/template.yaml) reads the same way: its folders are relative to itself. What
cannot be done here as on AWS (authorizers, REST APIs, images) is refused with a TemplateError, not left out.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.intrinsics import NO_VALUE, Resolver, UnresolvedError, scalar

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml: the same, slower
    from yaml import SafeLoader  # type: ignore[assignment]  # the two classes share their interface

log = logging.getLogger(__name__)

INTEGRATION_SECONDS = 30.0  # the longest that an HTTP API waits for a function


class TemplateError(Exception):
    """The template cannot be read or run here; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Function:
    """One Lambda function."""

    logical_id: str
    name: str  # FunctionName, or the logical id
    handler: str
    code: Path
    layers: tuple[Path, ...]  # folders for the import path
    timeout: float  # seconds
    memory: int  # MB
    reserved: int | None  # concurrent executions
    retries: int  # of an asynchronous invocation that failed
    variables: Mapping[str, str]
    unresolved: Mapping[str, str]  # variables whose value only a deployment knows, with the expression

    def environment(self, overrides: Mapping[str, str]) -> dict[str, str]:
        """The declared variables with the overrides put in. TemplateError names those without a value."""
        missing = [f"{name} ({why})" for name, why in self.unresolved.items() if name not in overrides]
        if missing:
            raise TemplateError(f"{self.logical_id}: no value for {', '.join(missing)}; give an override")
        declared = [*self.variables, *self.unresolved]
        return {name: overrides[name] if name in overrides else self.variables[name] for name in declared}


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the HTTP API."""

    method: str  # upper case, or ANY
    path: str  # /v1/transfers/{id}, or $default
    function: str  # logical id
    timeout: float = INTEGRATION_SECONDS

    @property
    def key(self) -> str:
        """API Gateway's routeKey."""
        return self.path if self.path == "$default" else f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Cors:
    """CorsConfiguration of the HTTP API."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    max_age: int | None  # seconds
    credentials: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """One timed invocation."""

    name: str
    function: str  # logical id
    expression: str  # rate(5 minutes) or cron(0 3 * * ? *)
    timezone: str
    input: str | None  # JSON; None means the service's own event
    source: str  # aws.events (Schedule) or aws.scheduler (ScheduleV2)


@dataclass(frozen=True, slots=True)
class Template:
    """Everything the platform runs; functions by logical id."""

    functions: Mapping[str, Function]
    routes: tuple[Route, ...]
    cors: Cors | None
    schedules: tuple[Schedule, ...]


class _Loader(SafeLoader):
    """YAML with CloudFormation's short tags."""


def _short_tag(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    value: Any
    match node:
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            value = loader.construct_mapping(node, deep=True)
    return {name: value}


_Loader.add_multi_constructor("!", _short_tag)


def load(path: Path, parameters: Mapping[str, str] | None = None) -> Template:
    """Read a template, with these parameter values over its defaults. TemplateError says what is wrong."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    except (OSError, yaml.YAMLError) as error:
        raise TemplateError(f"{path}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        raise TemplateError(f"{path}: not a template, it has no Resources")
    unknown = set(parameters or {}) - set(document.get("Parameters") or {})
    if unknown:
        raise TemplateError(f"{path}: no such parameter: {', '.join(sorted(unknown))}")
    try:
        return _Reader(path, document, parameters or {}).read()
    except UnresolvedError as error:
        raise TemplateError(f"{path}: cannot work out {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TemplateError(f"{path}: not of the form that SAM has: {error!r}") from error


class _Reader:
    """One template being read."""

    def __init__(self, path: Path, document: dict[str, Any], parameters: Mapping[str, str]) -> None:
        self._base = path.resolve().parent
        self._document = document
        self._resolver = Resolver(document, parameters)
        self._globals: dict[str, Any] = document.get("Globals") or {}

    def read(self) -> Template:
        functions: dict[str, Function] = {}
        routes: list[Route] = []
        schedules: list[Schedule] = []
        for logical_id in self._of_type("AWS::Serverless::Function"):
            properties = _merge(self._globals.get("Function") or {}, self._properties(logical_id))
            functions[logical_id] = self._function(logical_id, properties)
            for name, event in (properties.get("Events") or {}).items():
                self._event(logical_id, name, event, routes, schedules)
        keys = [route.key for route in routes]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise TemplateError(f"routes given twice: {', '.join(sorted(twice))}")
        return Template(functions, tuple(routes), self._cors(), tuple(schedules))

    def _of_type(self, kind: str) -> list[str]:
        found = []
        for logical_id, resource in self._document["Resources"].items():
            if resource.get("Type") != kind:
                continue
            condition = resource.get("Condition")
            if condition is None or self._resolver.condition(condition):
                found.append(logical_id)
        return found

    def _properties(self, logical_id: str) -> dict[str, Any]:
        return self._document["Resources"][logical_id].get("Properties") or {}

    def _value(self, where: str, node: Any) -> Any:
        try:
            return self._resolver.value(node)
        except UnresolvedError as error:
            raise TemplateError(f"{where}: cannot work out {error}") from error

    def _function(self, logical_id: str, properties: dict[str, Any]) -> Function:
        def get(name: str, default: Any = None) -> Any:
            return self._value(f"{logical_id}.{name}", properties.get(name, default))

        if properties.get("PackageType", "Zip") != "Zip" or "InlineCode" in properties:
            raise TemplateError(f"{logical_id}: only functions with a CodeUri folder run here")
        variables, unresolved = self._variables(properties)
        reserved = get("ReservedConcurrentExecutions")
        retries = (get("EventInvokeConfig") or {}).get("MaximumRetryAttempts", 2)
        handler = get("Handler")
        if not isinstance(handler, str):
            raise TemplateError(f"{logical_id}: no Handler")
        return Function(
            logical_id=logical_id,
            name=self._resolver.function_name(logical_id),
            handler=handler,
            code=self._folder(f"{logical_id}.CodeUri", get("CodeUri")),
            layers=self._layers(logical_id, properties.get("Layers") or []),
            timeout=float(get("Timeout", 3)),
            memory=int(get("MemorySize", 128)),
            reserved=None if reserved is None else int(reserved),
            retries=int(retries),
            variables=variables,
            unresolved=unresolved,
        )

    def _variables(self, properties: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        variables: dict[str, str] = {}
        unresolved: dict[str, str] = {}
        for name, node in ((properties.get("Environment") or {}).get("Variables") or {}).items():
            try:
                value = self._resolver.value(node)
                if isinstance(value, str) and "{{resolve:" in value:
                    unresolved[name] = "a dynamic reference"
                elif value is not NO_VALUE:
                    variables[name] = scalar(value)
            except UnresolvedError as error:
                unresolved[name] = str(error)
        return variables, unresolved

    def _layers(self, logical_id: str, nodes: list[Any]) -> tuple[Path, ...]:
        folders = []
        for node in nodes:
            name = node.get("Ref") if isinstance(node, dict) else None
            if not isinstance(name, str) or name not in self._document["Resources"]:
                log.warning("%s: a layer that is not in the template is left out", logical_id)
                continue
            where = f"{name}.ContentUri"
            folder = self._folder(where, self._value(where, self._properties(name).get("ContentUri")))
            built = folder / "python"  # where a built layer has its modules; a source layer is importable itself
            folders.append(built if built.is_dir() else folder)
        return tuple(folders)

    def _folder(self, where: str, given: Any) -> Path:
        if not isinstance(given, str) or not (self._base / given).is_dir():
            raise TemplateError(f"{where}: no such folder: {given}")
        return (self._base / given).resolve()

    def _event(
        self,
        logical_id: str,
        name: str,
        event: dict[str, Any],
        routes: list[Route],
        schedules: list[Schedule],
    ) -> None:
        where = f"{logical_id}.Events.{name}"
        properties = event.get("Properties") or {}
        match event.get("Type"):
            case "HttpApi":
                routes.append(self._route(where, logical_id, properties))
            case "Schedule" | "ScheduleV2" as kind:
                schedule = self._schedule(where, logical_id, kind, properties)
                if schedule is not None:
                    schedules.append(schedule)
            case "Api":
                raise TemplateError(f"{where}: REST APIs are not served here, use HttpApi")
            case kind:
                log.warning("%s: events of type %s do not happen here", where, kind)

    def _route(self, where: str, logical_id: str, properties: dict[str, Any]) -> Route:
        get = self._value(where, {key: node for key, node in properties.items() if key != "ApiId"}).get
        if get("Auth", {}).get("Authorizer", "NONE") != "NONE":
            raise TemplateError(f"{where}: authorizers are not run here")
        if str(get("PayloadFormatVersion", "2.0")) != "2.0":
            raise TemplateError(f"{where}: only payload format 2.0 is served here")
        path = get("Path", "$default")
        milliseconds = float(get("TimeoutInMillis", INTEGRATION_SECONDS * 1000))
        method = "ANY" if path == "$default" else str(get("Method", "ANY")).upper()
        return Route("ANY" if method == "*" else method, path, logical_id, milliseconds / 1000)

    def _schedule(self, where: str, logical_id: str, kind: str, properties: dict[str, Any]) -> Schedule | None:
        get = self._value(where, {key: node for key, node in properties.items() if key != "RoleArn"}).get
        if get("State", "ENABLED") != "ENABLED" or not get("Enabled", True):
            return None
        scheduler = kind == "ScheduleV2"
        return Schedule(
            name=get("Name", where.replace(".Events.", "")),
            function=logical_id,
            expression=str(get("ScheduleExpression" if scheduler else "Schedule")),
            timezone=get("ScheduleExpressionTimezone", "UTC"),
            input=get("Input"),
            source="aws.scheduler" if scheduler else "aws.events",
        )

    def _cors(self) -> Cors | None:
        apis = self._of_type("AWS::Serverless::HttpApi")
        if len(apis) > 1:
            raise TemplateError(f"one HTTP API is served here, not {len(apis)}: {', '.join(apis)}")
        properties = _merge(self._globals.get("HttpApi") or {}, self._properties(apis[0]) if apis else {})
        where = apis[0] if apis else "Globals.HttpApi"
        if "DefinitionBody" in properties or "DefinitionUri" in properties:
            raise TemplateError(f"{where}: routes are read from the functions' events, not from a definition")
        if (properties.get("Auth") or {}).get("DefaultAuthorizer"):
            raise TemplateError(f"{where}: authorizers are not run here")
        if self._value(where, properties.get("StageName", "$default")) != "$default":
            raise TemplateError(f"{where}: only the $default stage is served here")
        given = self._value(f"{where}.CorsConfiguration", properties.get("CorsConfiguration"))
        if not given:
            return None
        if given is True:
            return Cors(("*",), (), (), (), None, credentials=False)
        age = given.get("MaxAge")
        return Cors(
            origins=_texts(given.get("AllowOrigins")),
            methods=tuple(method.upper() for method in _texts(given.get("AllowMethods"))),
            headers=tuple(header.lower() for header in _texts(given.get("AllowHeaders"))),
            expose=tuple(header.lower() for header in _texts(given.get("ExposeHeaders"))),
            max_age=None if age is None else int(age),
            credentials=scalar(given.get("AllowCredentials", False)) == "true",
        )


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _merge(base: Any, over: Any) -> Any:
    """As SAM merges Globals: maps by key, lists one after the other, anything else replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: _merge(base[key], value) if key in base else value for key, value in over.items()}
    if isinstance(base, list) and isinstance(over, list):
        return [*base, *over]
    return over
