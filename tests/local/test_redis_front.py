"""The Upstash-compatible front, asked by Upstash's own SDK and by plain HTTP, before a real Valkey."""

import asyncio
import base64
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from upstash_redis import Redis as Upstash
from upstash_redis.errors import UpstashError

from local.redis_connection import Failure, Redis, _Replies
from local.redis_front import MAX_BODY, Front, serve_front
from local.valkey import Valkey, ValkeyError

PASSWORD = 'a "secret" with / @ : ü'
TOKEN = "token-of-the-tests="
UNAUTHORIZED = {
    "error": "WRONGPASS invalid or missing auth token. "
    "See https://docs.upstash.com/redis/troubleshooting/http_unauthorized for details."
}


@contextmanager
def fronted(redis_url: str) -> Iterator[Front]:
    """A front in a thread of its own, as the clients here block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        front = asyncio.run_coroutine_threadsafe(serve_front(redis_url, TOKEN, "127.0.0.1", 0), loop).result()
        yield front
        asyncio.run_coroutine_threadsafe(front.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def client(front: Front, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=front.url, headers={"Authorization": f"Bearer {TOKEN}", **headers}, timeout=20)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey.start(tmp_path_factory.mktemp("valkey"), password=PASSWORD)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def front(valkey: Valkey) -> Iterator[Front]:
    with fronted(valkey.url) as front:
        yield front


@pytest.fixture
def rest(front: Front) -> Iterator[httpx.Client]:
    with client(front) as http:
        http.post("/", json=["FLUSHALL"]).raise_for_status()
        yield http


@pytest.fixture(params=["base64", None])
def sdk(front: Front, rest: httpx.Client, request: pytest.FixtureRequest) -> Iterator[Upstash]:
    with Upstash(front.url, TOKEN, rest_encoding=request.param, rest_retries=0, allow_telemetry=False) as redis:
        yield redis


def test_the_sdk_gets_what_it_gets_from_upstash(sdk: Upstash) -> None:
    assert sdk.set("foo", "bär €", ex=100)
    assert sdk.get("foo") == "bär €"
    assert sdk.get("nothing") is None
    assert 90 < sdk.ttl("foo") <= 100
    assert sdk.incrby("n", 9_007_199_254_740_993) == 9_007_199_254_740_993
    assert sdk.mget("foo", "nothing", "n") == ["bär €", None, "9007199254740993"]
    assert sdk.hset("h", values={"a": "1", "b": "OK"}) == 2
    assert sdk.hgetall("h") == {"a": "1", "b": "OK"}
    assert sdk.zadd("z", {"x": 1.5, "y": 2}) == 2
    assert sdk.zrange("z", 0, -1, withscores=True) == [("x", 1.5), ("y", 2.0)]
    assert sdk.ping() == "PONG"
    assert sdk.scan(0)[1]
    assert sdk.delete("foo", "n", "nothing") == 2


def test_the_sdk_runs_scripts(sdk: Upstash) -> None:
    script = "return {KEYS[1], ARGV[1], 7, {false, redis.call('GET', KEYS[1])}}"
    sdk.set("k", "v")
    assert sdk.eval(script, keys=["k"], args=["a"]) == ["k", "a", 7, [None, "v"]]
    digest = sdk.script_load(script)
    assert sdk.evalsha(digest, keys=["k"], args=["b"]) == ["k", "b", 7, [None, "v"]]
    with pytest.raises(UpstashError, match="NOSCRIPT"):
        sdk.evalsha("0" * 40)
    with pytest.raises(UpstashError, match="told you"):
        sdk.eval("return redis.error_reply('ERR told you')")


def test_the_sdk_sends_pipelines_and_transactions(sdk: Upstash) -> None:
    for batch in (sdk.pipeline(), sdk.multi()):
        batch.set("a", "1").incr("a").get("a").get("nothing").hgetall("nothing")
        assert batch.exec() == [True, 2, "2", None, {}]


def test_the_sdk_is_told_what_is_wrong(sdk: Upstash, front: Front) -> None:
    sdk.set("text", "x")
    with pytest.raises(UpstashError, match="ERR value is not an integer or out of range"):
        sdk.incr("text")
    with Upstash(front.url, "wrong", rest_retries=0) as stranger, pytest.raises(UpstashError, match="WRONGPASS"):
        stranger.get("text")


def test_a_command_can_be_a_path(rest: httpx.Client) -> None:
    def ask(method: str, path: str, body: bytes = b"") -> object:
        return rest.request(method, path, content=body).raise_for_status().json()

    assert ask("GET", "/set/foo/bar/EX/100") == {"result": "OK"}
    assert ask("GET", "/get/foo") == {"result": "bar"}
    assert ask("POST", "/ttl/foo") == {"result": 100}
    assert ask("POST", "/set/doc?EX=50&XX", b"x") == {"result": None}
    assert ask("PUT", "/set/doc?EX=50", b'{"a": [1, "/"]}') == {"result": "OK"}
    assert ask("GET", "/mget/foo/doc/a%2Fb%20c") == {"result": ["bar", '{"a": [1, "/"]}', None]}
    assert ask("GET", "/ttl/doc") == {"result": 50}
    assert ask("GET", "/set/empty/") == {"result": "OK"}
    assert ask("GET", "/get/empty") == {"result": ""}


def test_the_token_may_be_a_parameter(front: Front) -> None:
    with httpx.Client(base_url=front.url) as http:
        assert http.get("/set/foo/bar", params={"_token": TOKEN, "EX": "9"}).json() == {"result": "OK"}
        assert http.post("/pipeline", params={"_token": TOKEN}, json=[["TTL", "foo"]]).json() == [{"result": 9}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}="},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xfc".encode("latin-1")},
    ],
)
def test_without_the_token_there_is_nothing(front: Front, headers: dict[str, str | bytes]) -> None:
    encoded = {name: value if isinstance(value, bytes) else value.encode() for name, value in headers.items()}
    with httpx.Client(base_url=front.url, headers=[(k.encode(), v) for k, v in encoded.items()]) as http:
        for answer in (
            http.get("/get/foo"),
            http.get("/get/foo?_token=wrong"),
            http.post("/pipeline", json=[["PING"]]),
            http.post("/multi-exec", content=b"nonsense"),
            http.delete("/"),
        ):
            assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)


def test_numbers_arrive_as_they_are_written(rest: httpx.Client) -> None:
    body = b'["RPUSH", "l", 1, -2, 1.50, 1e3, 123456789012345678901234567890, true, "\\u00fc"]'
    assert rest.post("/", content=body).json() == {"result": 7}
    expected = ["1", "-2", "1.50", "1e3", "123456789012345678901234567890", "true", "ü"]
    assert rest.post("/", json=["LRANGE", "l", 0, -1]).json() == {"result": expected}


@pytest.mark.parametrize("path", ["/", "/pipeline", "/multi-exec"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"SET foo bar",
        b"{}",
        b"[]",
        b"[[]]",
        b"[[[]]]",
        b'["GET", null]',
        b'[["GET", {}]]',
        b'[["SET", "foo", NaN]]',
        b'["GET", "\xff"]',
        b"[" * 100_000,
    ],
)
def test_what_is_no_command_is_refused(rest: httpx.Client, path: str, body: bytes) -> None:
    answer = rest.post(path, content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith("ERR ")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["GET"], "ERR wrong number of arguments for 'get' command"),
        (["INCR", "text"], "ERR value is not an integer or out of range"),
        (["LPUSH", "text", "x"], "WRONGTYPE Operation against a key holding the wrong kind of value"),
        (
            ["hgetal", "x"],
            "ERR Command is not available: 'HGETAL'. "
            "See https://upstash.com/docs/redis/overall/rediscompatibility for details",
        ),
        (
            ["Subscribe", "x"],
            'ERR Command "SUBSCRIBE" is not allowed in REST or it has a special context path',
        ),
    ],
)
def test_what_fails_says_so(rest: httpx.Client, command: list[str], error: str) -> None:
    rest.get("/set/text/x")
    answer = rest.post("/", json=command)
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    if command[0] != "GET":
        assert rest.get("/" + "/".join(command)).json() == {"error": error}
    answer = rest.post("/pipeline", json=[["SET", "a", "1"], command, ["GET", "a"]])
    assert (answer.status_code, answer.json()) == (200, [{"result": "OK"}, {"error": error}, {"result": "1"}])


@pytest.mark.parametrize(
    "command",
    [
        *(["MONITOR"], ["CLIENT", "REPLY", "OFF"], ["MULTI"], ["WATCH", "a"], ["QUIT"], ["RESET"]),
        *(["BLPOP", "nothing", "0"], ["XREAD", "BLOCK", "0", "STREAMS", "s", "$"], ["WAIT", "1", "0"]),
        *(["SELECT", "1"], ["HELLO", "3"], ["AUTH", "x"], ["SHUTDOWN"], ["CONFIG", "SET", "requirepass", "x"]),
        *(["SCRIPT", "DEBUG", "YES"], ["DEBUG", "SLEEP", "9"], ["REPLICAOF", "127.0.0.1", "1"], ["psync", "?", "-1"]),
    ],
)
def test_nobody_disturbs_the_shared_connection(rest: httpx.Client, command: list[str]) -> None:
    assert rest.post("/", json=command).status_code == 400
    assert rest.post("/multi-exec", json=[["SET", "a", "1"], command]).status_code == 400
    assert rest.post("/pipeline", json=[command, ["EXISTS", "a"]]).json()[1] == {"result": 0}


def test_a_transaction_runs_whole_or_not_at_all(rest: httpx.Client) -> None:
    answer = rest.post("/multi-exec", json=[["SET", "a", "x"], ["INCR", "a"], ["GET", "a"]])
    error = {"error": "ERR value is not an integer or out of range"}
    assert (answer.status_code, answer.json()) == (200, [{"result": "OK"}, error, {"result": "x"}])
    answer = rest.post("/multi-exec", json=[["SET", "b", "1"], ["GET"], ["NONSENSE"]])
    expected = {"error": "ERR wrong number of arguments for 'get' command"}
    assert (answer.status_code, answer.json()) == (400, expected)
    assert rest.get("/exists/b").json() == {"result": 0}


def test_nothing_comes_between_the_commands_of_a_transaction(front: Front, rest: httpx.Client) -> None:
    def work(number: int) -> bool:
        with client(front) as http:
            for _ in range(40):
                if number % 2:
                    http.post("/pipeline", json=[["INCR", "n"]] * 3).raise_for_status()
                    continue
                answers = http.post("/multi-exec", json=[["INCR", "n"]] * 5 + [["GET", "n"]]).json()
                first = answers[0]["result"]
                if answers != [{"result": first + i} for i in range(5)] + [{"result": str(first + 4)}]:
                    return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    assert rest.get("/get/n").json() == {"result": str(4 * 40 * 3 + 4 * 40 * 5)}


def test_bytes_survive_in_base64(front: Front, rest: httpx.Client) -> None:
    value = bytes(range(256)) + b"\r\n$3\r\nabc\r\n"
    assert rest.post("/set/binary", content=value).json() == {"result": "OK"}
    assert rest.get("/get/binary").json() == {"result": value.decode(errors="replace")}
    with client(front, **{"Upstash-Encoding": "base64"}) as http:
        assert http.get("/get/binary").json() == {"result": base64.b64encode(value).decode()}
        answer = http.post("/pipeline", json=[["SET", "ok", "OK"], ["GET", "ok"], ["PING"], ["STRLEN", "ok"], ["GET"]])
        assert answer.json()[:4] == [{"result": "OK"}, {"result": "T0s="}, {"result": "UE9ORw=="}, {"result": 2}]
        assert answer.json()[4] == {"error": "ERR wrong number of arguments for 'get' command"}


def test_much_is_carried_too(rest: httpx.Client) -> None:
    value = "ü" * 1_000_000
    assert rest.post("/", json=["SET", "big", value]).json() == {"result": "OK"}
    assert rest.get("/get/big").json() == {"result": value}
    pipeline = [["RPUSH", "list", *map(str, range(i, i + 100))] for i in range(0, 20_000, 100)]
    assert rest.post("/pipeline", json=pipeline).json()[-1] == {"result": 20_000}
    assert rest.get("/lrange/list/0/-1").json() == {"result": [str(i) for i in range(20_000)]}
    assert rest.post("/set/over", content=b"x" * (MAX_BODY + 1)).status_code == 413


def test_other_methods_and_formats_are_refused(rest: httpx.Client) -> None:
    assert rest.delete("/get/foo").status_code == 405
    assert rest.head("/get/foo").status_code == 200
    answer = rest.get("/get/foo", headers={"Upstash-Response-Format": "resp2"})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    answer = rest.get("/get/foo", headers={"Upstash-Sync-Token": "abc", "Upstash-Response-Format": "json"})
    assert answer.json() == {"result": None}


def test_a_redis_that_is_gone_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    server = Valkey.start(tmp_path, password=PASSWORD)
    try:
        with fronted(server.url) as front, client(front) as http:
            assert http.get("/set/a/1").json() == {"result": "OK"}
            server.process.kill()
            server.process.wait()
            for request in (["GET", "a"], [["GET", "a"]]):
                answer = http.post("/" if request[0] == "GET" else "/multi-exec", json=request)
                assert answer.status_code == 503
                assert answer.json()["error"].startswith("ERR Redis ")
            server = Valkey.start(tmp_path, password=PASSWORD, port=server.port)
            assert http.get("/get/a").json() == {"result": None}
    finally:
        server.stop()


def test_a_redis_that_hangs_is_an_error_and_no_answer_goes_astray(tmp_path: Path) -> None:
    server = Valkey.start(tmp_path, password=PASSWORD)
    try:
        with fronted(server.url) as front, client(front) as http:
            http.get("/mset/a/1/b/2")
            os.kill(server.pid, signal.SIGSTOP)
            answers = [http.get("/get/a"), http.post("/pipeline", json=[["GET", "a"]])]
            os.kill(server.pid, signal.SIGCONT)
            assert [answer.status_code for answer in answers] == [503, 503]
            assert all(answer.json()["error"].startswith("ERR Redis ") for answer in answers)
            assert http.get("/get/b").json() == {"result": "2"}
    finally:
        server.stop()


def test_a_hanging_valkey_is_stopped_all_the_same(tmp_path: Path) -> None:
    server = Valkey.start(tmp_path, password=PASSWORD)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert server.process.returncode == -signal.SIGKILL


def test_valkey_keeps_its_password_and_its_limits(valkey: Valkey, tmp_path: Path) -> None:
    seen = repr(valkey) + valkey.log.read_text()
    if Path("/proc").exists():
        seen += "".join(Path(f"/proc/{valkey.pid}/{name}").read_text() for name in ("cmdline", "environ"))
    assert "secret" not in seen
    assert os.getsid(valkey.pid) == valkey.pid
    with pytest.raises(ValkeyError, match=f"cannot have port {valkey.port} "):
        Valkey.start(tmp_path, password=PASSWORD, port=valkey.port)

    async def ask() -> object:
        redis = Redis(valkey.url)
        command = b"CONFIG GET maxmemory maxmemory-policy save appendonly\r\n"
        (reply,) = await redis.ask(command, 1)
        redis.close()
        return sorted(dict(zip(reply[::2], reply[1::2], strict=True)).items()) if isinstance(reply, list) else reply

    assert asyncio.run(ask()) == [
        (b"appendonly", b"no"),
        (b"maxmemory", b"67108864"),
        (b"maxmemory-policy", b"allkeys-lru"),
        (b"save", b""),
    ]


def test_a_database_can_be_chosen_and_a_wrong_password_is_not_repeated(valkey: Valkey) -> None:
    with fronted(valkey.url.removesuffix("/0") + "/3") as front, client(front) as http:
        http.get("/set/only/here")
        assert "db3:keys=1" in http.get("/info/keyspace").json()["result"]
    with fronted(f"redis://asha:hunter2@127.0.0.1:{valkey.port}") as front, client(front) as http:
        answer = http.get("/ping")
        assert answer.status_code == 503
        assert "WRONGPASS" in answer.json()["error"]
        assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "url", ["", "redis://", "http://example.com", "redis://:hunter2/x@example.com", "redis://[hunter2"]
)
def test_an_unusable_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL must be") as caught:
        Redis(url)
    assert "hunter2" not in str(caught.value)


def test_a_front_needs_a_token() -> None:
    with pytest.raises(ValueError, match="without a token"):
        asyncio.run(serve_front("redis://127.0.0.1:1", "", "127.0.0.1", 0))


def feed_whole(data: bytes) -> list[object]:
    return list(_Replies().feed(data))


def feed_by_byte(data: bytes) -> list[object]:
    replies = _Replies()
    return [reply for byte in data for reply in replies.feed(bytes([byte]))]


@pytest.mark.parametrize("feed", [feed_whole, feed_by_byte])
def test_replies_are_read_wherever_they_are_cut(feed: Callable[[bytes], list[object]]) -> None:
    data = (
        b"+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n$0\r\n\r\n$4\r\na\r\nb\r\n*-1\r\n*0\r\n"
        b"*3\r\n*2\r\n:1\r\n*1\r\n$1\r\nx\r\n*0\r\n-WRONG inner\r\n+last\r\n"
    )
    assert feed(data) == [
        *("OK", Failure("ERR no"), -7, None, b"", b"a\r\nb", None, []),
        *([[1, [b"x"]], [], Failure("WRONG inner")], "last"),
    ]
    with pytest.raises(ValueError):
        feed(b"HTTP/1.1 200 OK\r\n")
