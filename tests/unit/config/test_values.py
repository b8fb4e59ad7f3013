from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import values
from orchestrator.config.values import BadValue

READERS: tuple[Callable[[object], object], ...] = (
    values.text,
    values.secret,
    values.boolean,
    values.integer,
    values.duration,
    values.lifetime,
    values.size,
    values.address,
    values.listen_address,
    values.http_url,
    values.network,
    values.fixed_vips,
    values.assigned_vips,
    values.path,
    values.identity,
    values.host_name,
    values.interface,
    values.interface_glob,
    values.interface_class,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def refused(read: Callable[[object], object], value: object) -> BadValue | None:
    try:
        read(value)
    except BadValue as error:
        return error
    return None


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("500ms", 0.5), ("4s", 4), ("2m", 120), ("8h", 28800), ("1d", 86400), ("1.5s", 1.5)],
)
def test_reads_durations_with_their_unit(written: str, seconds: float) -> None:
    assert values.duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("http://203.0.113.80/generate_204", ("203.0.113.80", 80, "/generate_204")),
        ("http://203.0.113.80", ("203.0.113.80", 80, "/")),
        ("HTTP://203.0.113.80:8080?a=b", ("203.0.113.80", 8080, "/?a=b")),
        ("http://[2001:db8::80]:81/x/", ("2001:db8::80", 81, "/x/")),
    ],
)
def test_reads_urls_of_plain_http(written: str, read: tuple[str, int, str]) -> None:
    host, port, target = read
    assert values.http_url(written) == (ip_address(host), port, target)


@pytest.mark.parametrize(
    "written",
    [
        "https://203.0.113.80/", "http://portal.example.org/", "http://2001:db8::80/",
        "http://[203.0.113.80]/", "http://203.0.113.80:0/", "http://203.0.113.80:70000/",
        "http://127.0.0.1/", "http://a@203.0.113.80/", "http://203.0.113.80/a b",
        "http://203.0.113.80/\r\nX: y", "http://203.0.113.80/#a", "203.0.113.80", "", 80,
    ],
)  # fmt: skip
def test_refuses_what_is_no_url_of_plain_http(written: object) -> None:
    assert refused(values.http_url, written) is not None


@pytest.mark.parametrize("written", [4, "4", "4 s", "-4s", "4S", "s", "", "1h30m", "٤s", True])
def test_refuses_what_is_no_duration(written: object) -> None:
    with pytest.raises(BadValue) as caught:
        values.duration(written)
    assert '"4s"' in caught.value.remedy


@given(st.integers(1, 10**9))
@settings(deadline=None)
def test_shows_durations_as_it_reads_them(milliseconds: int) -> None:
    shown = values.show_duration(milliseconds / 1000)
    assert values.duration(shown) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("written", "octets"),
    [("64B", 64), ("512KiB", 524288), ("4MiB", 4194304), ("1 GiB", 1073741824)],
)
def test_reads_sizes_with_their_unit(written: str, octets: int) -> None:
    assert values.size(written) == octets


@pytest.mark.parametrize("written", [4, "4", "4MB", "4mib", "-4MiB", "", "1.5MiB"])
def test_refuses_what_is_no_size(written: object) -> None:
    with pytest.raises(BadValue):
        values.size(written)


@given(st.integers(1, 2**40))
@settings(deadline=None)
def test_shows_sizes_as_it_reads_them(octets: int) -> None:
    assert values.size(values.show_size(octets)) == octets


@pytest.mark.parametrize(
    "written", ["", "203.0.113", "0.0.0.0", "::1", "224.0.0.5", "ff02::1", 7]
)
def test_refuses_what_is_no_address_of_a_host(written: object) -> None:
    with pytest.raises(BadValue):
        values.address(written)


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("[::1]:1", "::1", 1),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
    ],
)
def test_reads_where_to_listen(written: str, host: str, port: int) -> None:
    assert values.listen_address(written) == (ip_address(host), port)


@pytest.mark.parametrize(
    "written",
    ["127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:+1", "::1:9464",
     "[::1]", "[127.0.0.1]:1", ":9464", "localhost:9464", 9464],
)  # fmt: skip
def test_refuses_what_is_no_address_with_a_port(written: object) -> None:
    with pytest.raises(BadValue):
        values.listen_address(written)


def test_tells_the_network_that_was_meant() -> None:
    with pytest.raises(BadValue) as caught:
        values.network("10.1.2.3/16")
    assert caught.value.remedy == 'write "10.1.0.0/16"'


@pytest.mark.parametrize("written", ["%any", "*", " a", "a\n", "", "a\x00b"])
def test_refuses_identities_that_charon_would_take_for_others(written: str) -> None:
    with pytest.raises(BadValue):
        values.identity(written)


@pytest.mark.parametrize(
    "written", ["laptop1@example.org", "vpn.example.org", "C=CH, O=Example, CN=laptop 1"]
)
def test_takes_identities_as_they_are_written(written: str) -> None:
    assert values.identity(written) == written


@pytest.mark.parametrize("written", ["eth 0", "eth/0", "a" * 16, "eth*", 'e"h', "", "eth0:1"])
def test_refuses_what_is_no_interface_name(written: str) -> None:
    with pytest.raises(BadValue):
        values.interface(written)


@pytest.mark.parametrize("read", READERS)
@given(value=ANYTHING)
@settings(deadline=None, max_examples=60)
def test_anything_is_read_or_refused_with_a_remedy(
    read: Callable[[object], object], value: object
) -> None:
    refusal = refused(read, value)
    assert refusal is None or (refusal.problem and refusal.remedy)


@given(value=ANYTHING)
@settings(deadline=None)
def test_a_secret_is_not_shown_by_its_refusal(value: object) -> None:
    refusal = refused(values.secret, value)
    assert refusal is None or str(refusal) == "the secret is not a text; put it in quotes"
