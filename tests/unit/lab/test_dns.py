"""What the lab's resolver answers, with and without DNS64."""

from ipaddress import IPv6Network

import dns.message
import dns.rcode
import pytest

from orchestrator.lab.dns import Zone, answer

PREFIX = IPv6Network("2001:db8:64ff::/96")
ZONE: Zone = {
    "four.example.org": ["203.0.113.10"],
    "both.example.org": ["203.0.113.10", "2001:db8:113::10"],
}


def ask(name: str, kind: str, prefix: IPv6Network | None = None) -> tuple[int, list[str]]:
    query = dns.message.make_query(name, kind)
    response = dns.message.from_wire(answer(query.to_wire(), ZONE, prefix))
    assert query.is_response(response)
    records = [str(record) for records in response.answer for record in records]
    return response.rcode(), sorted(records)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("four.example.org", "A", ["203.0.113.10"]),
        ("FOUR.example.org", "A", ["203.0.113.10"]),
        ("four.example.org", "AAAA", []),
        ("both.example.org", "AAAA", ["2001:db8:113::10"]),
        ("both.example.org", "MX", []),
        ("ipv4only.arpa", "AAAA", []),
    ],
)
def test_the_zone_is_told(name: str, kind: str, found: list[str]) -> None:
    assert ask(name, kind) == (dns.rcode.NOERROR, found)


def test_what_is_not_there_does_not_exist() -> None:
    assert ask("gone.example.org", "A") == (dns.rcode.NXDOMAIN, [])


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("four.example.org", "A", ["203.0.113.10"]),
        ("four.example.org", "AAAA", ["2001:db8:64ff::cb00:710a"]),
        ("both.example.org", "AAAA", ["2001:db8:113::10"]),
        ("ipv4only.arpa", "AAAA", ["2001:db8:64ff::c000:aa", "2001:db8:64ff::c000:ab"]),
    ],
)
def test_dns64_makes_what_is_missing(name: str, kind: str, found: list[str]) -> None:
    assert ask(name, kind, PREFIX) == (dns.rcode.NOERROR, found)
