"""The Lambda runtime client in plain Python, for machines that AWS's own has no wheel for (macOS, Windows).

    python -P local/runtime_client.py app.lambda_handler

Started by local/workers.py in the function's folder, with AWS_LAMBDA_RUNTIME_API set. Imports nothing of this
repository, so that the function sees only its own folder and its layers. It does what awslambdaric does: imports the
handler, then asks for one invocation after the other, and reports init errors and the errors of the handler.
"""

import decimal
import http.client
import importlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

_API = "/2018-06-01/runtime"
_JSON = {"Content-Type": "application/json"}
_PARENT_CHECK_SECONDS = 0.5

type Handler = Callable[[Any, "Context"], Any]


class Context:
    """What the handler is given beside its event."""

    def __init__(self, headers: http.client.HTTPMessage) -> None:
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.invoked_function_arn = headers["Lambda-Runtime-Invoked-Function-Arn"]
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.client_context = None
        self.identity = None
        self._deadline = int(headers["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is killed."""
        return max(0, self._deadline - int(time.time() * 1000))


class _Encoder(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        if isinstance(o, decimal.Decimal):
            return float(o)
        return super().default(o)


class _Log(logging.Handler):
    """Log records on standard output in Lambda's form, with the request's id."""

    request_id = ""

    def emit(self, record: logging.LogRecord) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        print(
            f"[{record.levelname}]\t{stamp}.{int(record.msecs):03d}Z\t{self.request_id}\t{self.format(record)}",
            flush=True,
        )


class InitError(Exception):
    """The handler cannot be had; the kind is Lambda's name for why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _error(error: BaseException, request_id: str = "", kind: str | None = None) -> bytes:
    """The error as Lambda reports it, also printed; frames that are not of the function are left out."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    report = {
        "errorMessage": str(error),
        "errorType": kind or (error.kind if isinstance(error, InitError) else type(error).__name__),
        "requestId": request_id,
        "stackTrace": traceback.format_list(own),
    }
    print(f"[ERROR] {report['errorType']}: {error}\n{''.join(report['stackTrace'])}", end="", flush=True)
    return json.dumps(report).encode()


def _import(name: str) -> Handler:
    """The handler named module.function. InitError, or whatever else the module raises."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        raise InitError("Runtime.MalformedHandlerName", f"Bad handler '{name}'")
    try:
        found = importlib.import_module(module.replace("/", "."))
    except ImportError as error:
        raise InitError("Runtime.ImportModuleError", f"Unable to import module '{module}': {error}") from error
    except SyntaxError as error:
        raise InitError("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module}': {error}") from error
    handler: Handler | None = getattr(found, attribute, None)
    if handler is None:
        raise InitError("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module}'")
    return handler


def _watch_parent(parent: int) -> None:
    """End with the platform, also when it could not say goodbye and the handler is busy."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    connection.request("POST", _API + path, body, _JSON)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 202:
        raise SystemExit(f"the Runtime API answered {answer.status}")


def _run(handler: Handler, event: bytes, context: Context) -> tuple[str, bytes]:
    """What the handler makes of the event: "response" and its JSON, or "error" and the error's."""
    try:
        result = handler(json.loads(event), context)
    except Exception as error:  # noqa: BLE001  (whatever the handler raises is what is reported)
        return "error", _error(error, context.aws_request_id)
    try:
        return "response", json.dumps(result, cls=_Encoder, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return "error", _error(error, context.aws_request_id, "Runtime.MarshalError")


def _serve(connection: http.client.HTTPConnection, handler: Handler, log: _Log) -> None:
    while True:
        connection.request("GET", _API + "/invocation/next")
        answer = connection.getresponse()
        event = answer.read()
        if answer.status != 200:
            return
        context = Context(answer.headers)
        log.request_id = context.aws_request_id
        os.environ["_X_AMZN_TRACE_ID"] = answer.headers.get("Lambda-Runtime-Trace-Id", "")
        kind, body = _run(handler, event, context)
        _post(connection, f"/invocation/{context.aws_request_id}/{kind}", body)


def main(name: str) -> int:
    """Serve the handler named module.function until the Runtime API goes away; the exit status."""
    sys.path.insert(0, os.getcwd())
    if hasattr(os, "getppid"):
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    log = _Log()
    logging.getLogger().addHandler(log)
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        handler = _import(name)
    except Exception as error:  # noqa: BLE001  (likewise for what its import raises)
        _post(connection, "/init/error", _error(error))
        return 1
    try:
        _serve(connection, handler, log)
    except (OSError, http.client.HTTPException):
        return 1  # the platform has gone
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
