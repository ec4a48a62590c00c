"""What the proxy reads of a request, and the list it is held against."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.sandbox import SandboxSpec
from turnwise.sandbox.egress.allowed import AllowList, is_public
from turnwise.sandbox.egress.head import Refusal, Request, parse


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# ---------------------------------------------------------------- the list


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "a b", "http://a.org", "a.org/x", "u@a.org", "a.org:", "a.org:0", "a.org:65536"),
        *("a..org", "-a.org", "a.org:x", "*.*.org", "a.*.org", "bücher.de", "a.org\n", "a.org,b.org"),
        *("*.10.0.0.1", "10.0.0.256", "127.1", "0x7f.1", "2130706433", "::1", "[::1", "[fe80::1%eth0]"),
        *("*.7", "a" * 64 + ".org"),
    ],
)
def test_what_is_no_host_is_refused_in_one_line(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^network: .* is no host; write [^\n]*\Z"):
        SandboxSpec(network=("pypi.org", entry))


@pytest.mark.parametrize("value", ["pypi.org", ["pypi.org"], None])
def test_what_is_no_tuple_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"network: .* is no tuple"):
        SandboxSpec(network=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "host", "port", "matches"),
    [
        ("pypi.org", "pypi.org", 443, True),
        ("pypi.org", "pypi.org", 80, True),
        ("pypi.org", "pypi.org", 22, False),
        ("PyPI.org.", "pypi.org", 443, True),
        ("pypi.org", "files.pypi.org", 443, False),
        ("pypi.org", "notpypi.org", 443, False),
        ("pypi.org", "pypi.org.evil.test", 443, False),
        ("*.pypi.org", "files.pypi.org", 443, True),
        ("*.pypi.org", "a.b.pypi.org", 443, True),
        ("*.pypi.org", "pypi.org", 443, False),
        ("*.pypi.org", "evilpypi.org", 443, False),
        ("*.pypi.org:8443", "a.pypi.org", 8443, True),
        ("*.pypi.org:8443", "a.pypi.org", 443, False),
        ("git.test:22", "git.test", 22, True),
        ("git.test:22", "git.test", 443, False),
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("[0:0::1]:8080", "::1", 8080, True),
    ],
)
def test_an_entry_matches_what_it_says(entry: str, host: str, port: int, matches: bool) -> None:
    assert AllowList((entry,)).matches(host, port) is matches
    assert not AllowList(()).matches(host, port)


PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "168.63.129.16", "::1", "::", "fe80::1"),
    *("fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::127.0.0.1", "2001:db8::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_the_owners_is_admitted_by_its_own_name_only(address: str) -> None:
    ip = ip_address(address)
    assert not is_public(ip)
    assert not AllowList(("a.test", "*.b.test")).admits(ip, 443)
    named = AllowList((f"[{address}]:8080" if ":" in address else f"{address}:8080",))
    assert named.admits(ip, 8080)
    assert not named.admits(ip, 443)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_a_public_address_is_admitted(address: str) -> None:
    assert AllowList(("a.test",)).admits(ip_address(address), 443)


# ---------------------------------------------------------------- heads


def test_a_tunnel_is_read() -> None:
    assert parse(head("CONNECT A.test.:443 HTTP/1.1", "Host: a.test:443")) == Request("a.test", 443, None)
    assert parse(head("CONNECT [::1]:443 HTTP/1.0")).target == "[::1]:443"


def test_a_request_is_written_anew() -> None:
    request = parse(
        head(
            "POST http://A.test:8080/x?y=1 HTTP/1.1",
            "Host: a.test:8080",
            "Proxy-Connection: keep-alive",
            "Connection: keep-alive, X-Private, Content-Length",
            "X-Private: 1",
            "Upgrade: websocket",
            "Close: 1",
            "Accept:  */* ",
            "Content-Length: 3",
        )
    )
    assert request.head == head(
        "POST /x?y=1 HTTP/1.1", "Host: a.test:8080", "Accept: */*", "Content-Length: 3", "Connection: close"
    )
    assert (request.host, request.port, request.length) == ("a.test", 8080, 3)
    assert parse(head("GET http://a.test?q HTTP/1.0")).head == head(
        "GET /?q HTTP/1.0", "Host: a.test", "Connection: close"
    )


GET = "GET http://a.test/ HTTP/1.1"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("",), 400),
        (("GET / HTTP/1.1", "Host: a.test"), 400),
        (("GET https://a.test/ HTTP/1.1",), 400),
        (("GET http://u:p@a.test/ HTTP/1.1",), 400),
        (("GET http://a.test@evil.test/ HTTP/1.1",), 400),
        (("GET http://a.test#@evil.test/ HTTP/1.1",), 400),
        (("GET http://a.test:80:80/ HTTP/1.1",), 400),
        (("GET http:///x HTTP/1.1",), 400),
        (("GET http://a.test/ HTTP/2.0",), 400),
        (("GET  http://a.test/ HTTP/1.1",), 400),
        (("GET http://a.test/\tx HTTP/1.1",), 400),
        (("get http://a.test/ HTTP/1.1",), 400),
        (("CONNECT a.test HTTP/1.1",), 400),
        (("CONNECT http://a.test:443 HTTP/1.1",), 400),
        (("CONNECT a.test:443 HTTP/1.1", "Host: b.test:443"), 400),
        ((GET, "Host: b.test"), 400),
        ((GET, "Host: a.test:81"), 400),
        ((GET, "Host: a.test", "Host: a.test"), 400),
        ((GET, "Host : a.test"), 400),
        ((GET, " folded"), 400),
        ((GET, "X: a\nHost: b.test"), 400),
        ((GET, "X: a\rHost: b.test"), 400),
        ((GET, "X: a\0"), 400),
        ((GET, "no colon"), 400),
        ((GET, "Content-Length: 1", "Content-Length: 1"), 400),
        ((GET, "Content-Length: 1, 1"), 400),
        ((GET, "Content-Length: +1"), 400),
        ((GET, "Content-Length: -1"), 400),
        ((GET, "Transfer-Encoding: chunked"), 411),
        ((GET, "Content-Length: 1", "Transfer-Encoding: identity"), 411),
        ((GET, *["X: a"] * 101), 431),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: tuple[str, ...], status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        parse(head(*lines))
    assert refusal.value.status == status
    assert "\n" not in str(refusal.value)


TOKENS = st.sampled_from(
    [
        *(
            "GET",
            "POST",
            "CONNECT",
            " ",
            "http://",
            "a.test",
            "b.test",
            ":",
            "80",
            "/",
            "?",
            "#",
            "@",
            "[::1]",
        ),
        *(" HTTP/1.1", "\r\n", "\n", "\r", "\0", "Host: ", "Content-Length: ", "Transfer-Encoding: ", "\t"),
        *("chunked", "Connection: ", "close", "X: ", "1", "é", ","),
    ]
)
HEADS = st.one_of(
    st.binary(max_size=300),
    st.lists(TOKENS, max_size=30).map(lambda parts: "".join(parts).encode("latin-1", "replace")),
    st.lists(TOKENS, max_size=30).map(lambda parts: (GET + "\r\n" + "".join(parts)).encode("latin-1")),
)


@given(HEADS)
def test_whatever_comes_is_refused_or_written_anew(raw: bytes) -> None:
    """Nothing else is raised, and what is passed on is one head that says what was checked."""
    request = None
    with suppress(Refusal):
        request = parse(raw + b"\r\n\r\n")
    if request is None or request.head is None:
        return
    assert request.head.count(b"\r\n\r\n") == 1
    first, *fields = request.head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert not any(c in line for line in (first, *fields) for c in (b"\r", b"\n", b"\0"))
    names = [field.partition(b":")[0].lower() for field in fields]
    assert names.count(b"host") == names.count(b"connection") == 1
    assert names.count(b"content-length") <= 1
    assert not {b"transfer-encoding", b"proxy-connection", b"upgrade"} & {*names}
    again = first.split(b" ")
    absolute = b" ".join([again[0], b"http://" + request.target.encode() + again[1], again[2]])
    assert parse(b"\r\n".join([absolute, *fields, b"", b""])) == request
