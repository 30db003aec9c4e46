"""Kubeconfigs, and the settings in a pod, with faults: each leads to an answer or to a clear error, and to no program."""

# ruff: noqa: E501, ARG005 - lists of odd values

from __future__ import annotations

import base64
import json
import os
import random
import socket
import subprocess
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import yaml
from kubernetes.config import incluster_config

from deploy_targets.kubernetes import api
from headgate.errors import HeadgateError
from support.api_server import api_server
from support.processor import measured

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 1.0
"""Of a processor, for one file."""
_HERE = "127.0.0.1"
_ODD: list[Any] = [
    None, "", [], {}, 7, -1, 1.5, True, "\x00", "\x1b[2J", "x" * 5000, ["a"], {"a": {"b": "c"}}, "é", "a\nb", b"\xff\x00",
    "../../etc/passwd", "/", "/nowhere", ".", "no base64!", base64.b64encode(b"no PEM").decode(),
    base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").decode(),
    base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").decode(), 10**400, float("nan"),
]  # fmt: skip
_SERVERS: list[Any] = [
    "", "http://", "https://", "file:///etc/passwd", "ftp://x", "127.0.0.1", "http://127.0.0.1:99999", "http://[::1",
    "http://127.0.0.1:-1", "http://user:password@127.0.0.1", "unix:///run/x", "http://\x00", "http://a b", "javascript:1",
    "http://127.0.0.1:1", "https://" + "a" * 300, "http://xn--", "//127.0.0.1", "http://127.0.0.1:80:80", "HTTP://é.invalid",
    7, None, ["http://x"], "http://nowhere.invalid/base/path?x#y", "http://127.0.0.1:\u0663",
]  # fmt: skip
_EXECS: list[dict[str, Any]] = [
    {"command": "headgate-no-such-program"}, {"command": ""}, {"command": "false"}, {"command": "true"}, {},
    {"command": "/"}, {"command": "printf", "args": ["not json"]}, {"command": "printf", "args": ["[]"]},
    {"command": "printf", "args": ['{"status": {}}']}, {"command": "printf", "args": "x"}, {"command": 7},
    {"command": "printf", "args": [7]}, {"command": "true", "env": 7}, {"command": "true", "env": [{"name": 1}]},
    {"command": "printf", "args": [json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                                               "status": {"token": "a\nb"}})]},
    {"command": "printf", "args": [json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                                               "status": {"clientCertificateData": "x", "clientKeyData": "y"}})]},
    {"command": "printf", "args": ["\\377\\376"]}, {"command": "true\x00"},
]  # fmt: skip
_PROVIDERS: list[Any] = [
    {"name": "gcp", "config": {"cmd-path": "touch", "cmd-args": "$MARK"}}, {"name": "gcp", "config": {"cmd-path": 7}},
    {"name": "oidc", "config": {"id-token": "a.b.c"}}, {"name": "oidc", "config": {"id-token": 7}},
    {"name": "oidc", "config": {"id-token": "a.!!.c", "idp-issuer-url": "http://nowhere.invalid"}}, {"name": "oidc"},
    {"name": 7}, {}, 7, {"name": "gcp", "config": {"access-token": 7, "expiry": "yesterday"}},
    {"name": "gcp", "config": {"access-token": "t", "expiry": "2001-99-01T00:00:00Z"}},
]  # fmt: skip


class Ran(NamedTuple):
    """How many kubeconfigs led to an answer, and to which errors; the worst time; what went wrong."""

    answered: int
    refused: int
    slowest: float
    wrong: list[str]
    programs: Counter[str]


def check(seeds: range, folder: Path) -> Ran:
    """Ask a cluster by the kubeconfigs of these seeds.

    Args:
        seeds: of the files.
        folder: for them.
    """
    answered = refused = 0
    slowest, wrong = 0.0, []
    programs: Counter[str] = Counter()
    mark = folder / "mark"
    with api_server() as server, ExitStack() as stack:
        for patch in _alone(programs):
            stack.enter_context(patch)
        for seed in seeds:
            dice = random.Random(seed)
            with mock.patch.dict(os.environ):
                _prepare(dice, folder, server.port, mark)
                allowed = set(map(str, (one.get("command") for one in _EXECS)))
                with measured() as taken:
                    try:
                        api.Api(dice.choice(["", "", "c", "nobody", "\x00"]), "default").find("configmaps", "x")
                        answered += 1
                    except HeadgateError as error:
                        refused += 1
                        if not _is_clear(str(error)):
                            wrong.append(f"seed {seed}: no clear words: {str(error)[:300]!r}")
                    except Exception as error:  # noqa: BLE001 - whatever a file leads to
                        wrong.append(f"seed {seed}: {error!r}"[:300])
            slowest = max(slowest, taken.seconds)
            if taken.seconds > SECONDS:
                wrong.append(f"seed {seed}: {taken.seconds:.1f} s")
            if mark.exists() or not set(programs) <= allowed:
                wrong.append(f"seed {seed}: it ran a program: {sorted(programs)}")
                mark.unlink(missing_ok=True)
    return Ran(answered, refused, slowest, wrong, programs)


def _is_clear(text: str) -> bool:
    return "fix:" in text and len(text) < 2000 and all(letter.isprintable() or letter == "\n" for letter in text)


def _alone(programs: Counter[str]) -> list[Any]:
    """Only this machine answers, at once, and programs are counted."""
    lookup, start = socket.getaddrinfo, subprocess.Popen

    def here_only(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in {_HERE, _HERE.encode()}:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return lookup(host, *args, **kwargs)

    class Counted(start):  # type: ignore[misc, valid-type]
        def __init__(self, args: Any, *more: Any, **kwargs: Any) -> None:
            programs[str(args[0] if isinstance(args, list) and args else args)] += 1
            super().__init__(args, *more, **kwargs)

    return [
        mock.patch("socket.getaddrinfo", here_only), mock.patch("subprocess.Popen", Counted),
        mock.patch.object(api, "_CONNECT_TRIES", 0),
    ]  # fmt: skip


def _prepare(dice: random.Random, folder: Path, port: int, mark: Path) -> None:
    os.environ.pop("KUBERNETES_SERVICE_HOST", None)
    if dice.random() < 0.1:
        _in_pod(dice, folder, port)
        return
    file = folder / "kubeconfig"
    file.write_bytes(_mutated(dice, port, str(mark)))
    os.environ["KUBECONFIG"] = dice.choice([
        *([str(file)] * 9), f"{file}:{folder / 'nothing'}", f"{file}:{file}", str(folder), ":", f":{file}:", "/dev/null",
    ])  # fmt: skip


def _in_pod(dice: random.Random, folder: Path, port: int) -> None:
    """What a pod is given, with faults."""
    os.environ.pop("KUBECONFIG", None)
    os.environ["KUBERNETES_SERVICE_HOST"] = dice.choice(
        [_HERE, "", "::1", "nowhere.invalid", "a b", "é", "[", "x" * 300]
    )
    os.environ["KUBERNETES_SERVICE_PORT"] = dice.choice([str(port), "", "0", "-1", "99999", "x", "٣"])
    token, authority = folder / "token", folder / "ca.crt"
    token.write_bytes(dice.choice([b"", b"secret", b"\x00", b"\xff", b"a\nb", b"x" * 100_000]))
    authority.write_bytes(dice.choice([b"", b"no PEM", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]))
    if dice.random() < 0.2:
        dice.choice([token, authority]).unlink()
    incluster_config.SERVICE_TOKEN_FILENAME, incluster_config.SERVICE_CERT_FILENAME = str(token), str(authority)


def _mutated(dice: random.Random, port: int, mark: str) -> bytes:
    content: dict[str, Any] = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": f"http://{_HERE}:{port}"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }  # fmt: skip
    for _ in range(dice.randint(1, 2)):
        dice.choice([_entry, _entry, _cluster, _cluster, _user, _user, _context])(content, dice, mark)
    text = yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogateescape")
    if dice.random() < 0.3:
        text = dice.choice(_OF_TEXT)(text, dice)
    return text


def _entry(content: dict[str, Any], dice: random.Random, _mark: str) -> None:
    """A part of the file is missing, doubled, or of another type."""
    name = dice.choice(list(content))
    fault = dice.randrange(4)
    if fault == 0:
        del content[name]
        content["x"] = 1
    elif fault == 1 or not isinstance(content[name], list):
        content[name] = dice.choice(_ODD)
    elif fault == 2:
        content[name] = [*content[name], *content[name], dice.choice(_ODD)]
    elif content[name] and isinstance(content[name][0], dict):
        entry = dict(content[name][0])
        entry[dice.choice([*entry, "x"])] = dice.choice(_ODD)
        content[name] = [entry]


def _part(content: dict[str, Any], entries: str, kind: str) -> dict[str, Any] | None:
    listed = content.get(entries)
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and isinstance(listed[0].get(kind), dict):
        return dict.__getitem__(listed[0], kind)  # type: ignore[no-any-return]
    return None


def _cluster(content: dict[str, Any], dice: random.Random, _mark: str) -> None:
    if (cluster := _part(content, "clusters", "cluster")) is None:
        return
    name = dice.choice([
        "server", "server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify", "proxy-url",
        "tls-server-name",
    ])  # fmt: skip
    cluster[name] = dice.choice(_SERVERS if name in {"server", "proxy-url"} else _ODD)
    if name.startswith("certificate") and dice.random() < 0.5:
        cluster["server"] = f"https://{_HERE}:1"


def _user(content: dict[str, Any], dice: random.Random, mark: str) -> None:
    if (user := _part(content, "users", "user")) is None:
        return
    fault = dice.randrange(3)
    if fault == 0:
        user.clear()
        user["exec"] = {"apiVersion": dice.choice(["client.authentication.k8s.io/v1", "x", 7]), **dice.choice(_EXECS)}
    elif fault == 1:
        user.clear()
        user["auth-provider"] = json.loads(json.dumps(dice.choice(_PROVIDERS)).replace("$MARK", mark))
    else:
        name = dice.choice(["token", "tokenFile", "username", "password", "client-certificate", "client-key",
                            "client-certificate-data", "client-key-data", "exec", "auth-provider", "as"])  # fmt: skip
        user[name] = dice.choice(_ODD)
        if name.startswith("client"):
            user[dice.choice(["client-key-data", "client-certificate-data"])] = dice.choice(_ODD)
            if (cluster := _part(content, "clusters", "cluster")) is not None:
                cluster["server"] = f"https://{_HERE}:1"


def _context(content: dict[str, Any], dice: random.Random, _mark: str) -> None:
    if (context := _part(content, "contexts", "context")) is not None:
        context[dice.choice(["cluster", "user", "namespace"])] = dice.choice(_ODD)


def _laughs(_text: bytes, _dice: random.Random) -> bytes:
    """Few bytes that become a billion entries where aliases are copied."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join([*lines, "current-context: c", "contexts: *a11", "users: *a11", "clusters: *a11"]).encode()


def _few_laughs(_text: bytes, _dice: random.Random) -> bytes:
    lines = ["a0: &a0 {name: c, context: {cluster: k, user: u}}"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 24)]
    return "\n".join([*lines, "current-context: c", "contexts: *a23", "users: *a23", "clusters: *a23"]).encode()


_OF_TEXT = [
    _laughs, _few_laughs,
    lambda text, dice: text[: dice.randrange(len(text) + 1)],
    lambda text, dice: text[: (at := dice.randrange(len(text) + 1))] + bytes([dice.randrange(256)]) + text[at:],
    lambda text, _: text + b"\x00",
    lambda text, _: b"\xff\xfe" + text,
    lambda text, _: text + b"z: " + b"[" * 5000,
    lambda text, _: text + b"z: &z [*z]\n",
    lambda text, _: text + b"z: !!python/object/apply:os.system [touch mark]\n",
    lambda text, _: text + b"#" + b" " * 5_000_000,
    lambda text, _: text + b"".join(b"k%d: v\n" % number for number in range(5_000)),
    lambda text, _: b"---\n" + text + b"---\n" + text,
    lambda text, _: text + b"<<: 7\n",
    lambda text, _: b"",
    lambda text, _: text.replace(b"name: c", b"name: &c c\n  <<: *c"),
]  # fmt: skip
