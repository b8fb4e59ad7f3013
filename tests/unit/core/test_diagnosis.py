"""Readings in, findings out: a machine that is well, then one thing wrong at a time."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.diagnosis import (
    CharonReading,
    Expectations,
    Feature,
    Finding,
    NetworkReading,
    Readings,
    Severity,
    Tried,
    judge,
)
from orchestrator.wire.strongswan_conf import ConfFile, parse

SHIPPED = Path(__file__).parents[3] / "strongswan-conf"
POP = ip_address("192.0.2.2")
NETWORK = NetworkReading(
    frozenset({("eth0", POP), ("wwan0", ip_address("2001:db8::2"))}),
    frozenset({("eth0", ip_address("192.0.2.1"))}),
)
SETTINGS = parse(
    ConfFile("", (SHIPPED / "endpoint.conf").read_text()),
    lambda _, path: [ConfFile("", (SHIPPED / path).read_text())],
)
WELL = Readings(
    role="endpoint",
    tried=tuple(Tried(feature, None) for feature in Feature),
    sysctls={
        "net/ipv4/ip_no_pmtu_disc": "0",
        "net/ipv4/ip_forward": "1",
        "net/ipv6/conf/all/forwarding": "1",
        "net/ipv4/conf/all/ignore_routes_with_linkdown": "0",
        "net/ipv6/conf/all/ignore_routes_with_linkdown": "0",
        "net/core/xfrm_larval_drop": "1",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/eth0/rp_filter": "2",
        "net/ipv4/conf/eth0/disable_xfrm": "0",
        "net/ipv4/conf/eth0/disable_policy": "0",
    },
    xfrm_counters={"XfrmInNoStates": 3},
    charon=CharonReading("5.9.8", socket="/run/x", settings=SETTINGS, settings_file="/etc/s"),
    links=frozenset({"eth0", "wwan0"}),
    first=NETWORK,
    second=NETWORK,
    daemon_paths=(("eth0", POP),),
)


def only(readings: Readings) -> Finding:
    (finding,) = judge(readings)
    assert finding.remedy
    return finding


def but(**sysctls: str) -> Readings:
    changed = {name.replace("__", "/"): value for name, value in sysctls.items()}
    return replace(WELL, sysctls={**WELL.sysctls, **changed})


@pytest.mark.parametrize("role", ["endpoint", "server", None])
def test_a_machine_that_is_well_gives_no_findings(role: Any) -> None:
    assert judge(replace(WELL, role=role)) == ()


class TestKernel:
    @pytest.mark.parametrize("feature", Feature)
    def test_a_missing_feature_is_an_error_for_whom_it_concerns(self, feature: Feature) -> None:
        tried = tuple(Tried(each, "no" if each is feature else None) for each in Feature)
        judged = {
            role: judge(replace(WELL, role=role, tried=tried))
            for role in ("endpoint", "server")
        }
        concerned = {role for role, found in judged.items() if found}
        expected = {
            Feature.SERVER_FIREWALL: {"server"},
            Feature.ENDPOINT_FIREWALL: {"endpoint"},
        }
        assert concerned == expected.get(feature, {"endpoint", "server"})
        for found in judged.values():
            assert all(each.severity is Severity.ERROR and each.remedy for each in found)
        assert only(replace(WELL, role=None, tried=tried)).what.startswith(feature)

    def test_what_could_not_be_tried_is_said(self) -> None:
        finding = only(replace(WELL, tried=(), not_tried="Operation not permitted"))
        assert finding.severity is Severity.WARNING
        assert "Operation not permitted" in finding.what


class TestSettings:
    def test_no_path_mtu_discovery(self) -> None:
        finding = only(but(net__ipv4__ip_no_pmtu_disc="1"))
        assert finding.severity is Severity.ERROR
        assert "sysctl -w net.ipv4.ip_no_pmtu_disc=0" in finding.remedy

    def test_applications_that_would_hang(self) -> None:
        assert only(but(net__core__xfrm_larval_drop="0")).severity is Severity.WARNING

    @pytest.mark.parametrize(
        ("everywhere", "here", "strict"),
        [
            ("0", "0", False),
            ("0", "1", True),
            ("1", "0", True),
            ("1", "1", True),
            ("2", "1", False),
            ("1", "2", False),
        ],
    )
    def test_a_strict_filter_counts_when_nothing_relaxes_it(
        self, everywhere: str, here: str, strict: bool
    ) -> None:
        """The kernel takes the larger of the two (Documentation/networking/ip-sysctl)."""
        readings = replace(
            but(
                net__ipv4__conf__all__rp_filter=everywhere,
                net__ipv4__conf__eth0__rp_filter=here,
            ),
            links=frozenset({"eth0"}),
        )
        found = judge(readings)
        assert bool(found) == strict
        assert not found or "rp_filter=2" in found[0].remedy

    @pytest.mark.parametrize("name", ["disable_xfrm", "disable_policy"])
    def test_a_link_without_ipsec(self, name: str) -> None:
        finding = only(but(**{f"net__ipv4__conf__eth0__{name}": "1"}))
        assert finding.severity is Severity.ERROR
        assert "not" in finding.what

    @pytest.mark.parametrize("family", ["ipv4", "ipv6"])
    def test_passing_the_route_over_the_tun_by_is_an_error_on_an_endpoint(
        self, family: str
    ) -> None:
        readings = but(**{f"net__{family}__conf__all__ignore_routes_with_linkdown": "1"})
        finding = only(readings)
        assert finding.severity is Severity.ERROR
        assert f"net.{family}.conf.all.ignore_routes_with_linkdown=0" in finding.remedy
        assert judge(replace(readings, role="server")) == ()

    def test_forwarding_switched_off_behind_a_running_server(self) -> None:
        pools = Expectations(pools=(ip_network("10.99.0.0/24"),))
        readings = replace(but(net__ipv4__ip_forward="0"), role="server", expected=pools)
        assert only(readings).severity is Severity.ERROR
        stopped = replace(readings, daemon_paths=None)
        assert [each.subject for each in judge(stopped)] == ["daemon"]

    def test_counters_that_grew_large(self) -> None:
        finding = only(replace(WELL, xfrm_counters={"XfrmInTmplMismatch": 100}))
        assert (finding.severity, finding.subject) == (Severity.NOTICE, "xfrm")


class TestCharon:
    def test_absent(self) -> None:
        problem = "charon does not answer at /run/x: no such file"
        finding = only(replace(WELL, charon=CharonReading(problem=problem)))
        assert finding.severity is Severity.ERROR
        assert f"{finding.subject} {finding.what}" == problem
        assert "orchestrator-charon" in finding.remedy

    def test_who_may_not_ask_it_is_not_told_to_start_it(self) -> None:
        charon = CharonReading(problem="charon does not answer at /run/x: no", forbidden=True)
        assert only(replace(WELL, charon=charon)).remedy == "run this as root"

    @pytest.mark.parametrize(
        ("version", "old"), [("5.8.4", True), ("5.9.2", False), ("6.0", False)]
    )
    def test_too_old(self, version: str, old: bool) -> None:
        assert bool(judge(replace(WELL, charon=replace(WELL.charon, version=version)))) == old

    def test_settings_that_cannot_be_read(self) -> None:
        charon = replace(WELL.charon, settings=None, settings_problem="permission denied")
        assert only(replace(WELL, charon=charon)).severity is Severity.WARNING

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("charon.install_routes", "yes"),
            ("charon.routing_table", "220"),
            ("charon.install_virtual_ip", "true"),
            ("charon.reuse_ikesa", "1"),
            ("charon.plugins.kernel-netlink.roam_events", "yes"),
            ("charon.plugins.socket-default.fwmark", "0x1"),
            ("charon.plugins.socket-default.set_source", "no"),
        ],
    )
    def test_each_setting_that_we_depend_on(self, name: str, value: str) -> None:
        wrong = replace(WELL.charon, settings={**SETTINGS, name: value})
        assert f"{name} is {value} in /etc/s" in only(replace(WELL, charon=wrong)).what
        absent = {key: each for key, each in SETTINGS.items() if key != name}
        missing = replace(WELL.charon, settings=absent)
        assert f"{name} is not set" in only(replace(WELL, charon=missing)).what

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("charon.install_routes", "False"),
            ("charon.plugins.socket-default.fwmark", "1862270976"),
            ("charon.plugins.socket-default.fwmark", "0x6f000000/0xff000000"),
            ("charon.plugins.socket-default.set_source", "1"),
        ],
    )
    def test_other_ways_to_write_the_same(self, name: str, value: str) -> None:
        charon = replace(WELL.charon, settings={**SETTINGS, name: value})
        assert judge(replace(WELL, charon=charon)) == ()


class TestNetworks:
    MORE = replace(NETWORK, addresses=NETWORK.addresses | {("eth0", ip_address("192.0.2.9"))})

    def test_an_address_that_one_reading_lacks(self) -> None:
        assert "netifaces has not" in only(replace(WELL, first=self.MORE)).what
        assert "rtnetlink has not" in only(replace(WELL, second=self.MORE)).what

    def test_a_gateway_that_the_second_reading_lacks(self) -> None:
        finding = only(replace(WELL, second=replace(NETWORK, gateways=frozenset())))
        assert "192.0.2.1 on eth0" in finding.what

    def test_gateways_of_other_tables_prove_nothing(self) -> None:
        assert judge(replace(WELL, first=replace(NETWORK, gateways=frozenset()))) == ()

    def test_a_path_of_the_daemon_from_an_address_that_is_not_there(self) -> None:
        paths = (("eth0", ip_address("192.0.2.77")),)
        assert "192.0.2.77 on eth0" in only(replace(WELL, daemon_paths=paths)).what

    def test_what_the_configuration_names_and_is_not_here(self) -> None:
        expected = Expectations(
            links=("eth0", "wan0"), addresses=(POP, ip_address("203.0.113.10"))
        )
        found = judge(replace(WELL, expected=expected))
        assert [each.what for each in found] == [
            "there is no interface wan0 here",
            "203.0.113.10 is on no interface here",
        ]

    def test_a_pool_that_is_a_network_of_this_machine(self) -> None:
        expected = Expectations(pools=(ip_network("192.0.2.0/24"),))
        assert "in the pool 192.0.2.0/24" in only(replace(WELL, expected=expected)).what


class TestDaemon:
    def test_not_running_is_worth_a_notice(self) -> None:
        assert only(replace(WELL, daemon_paths=None)).severity is Severity.NOTICE

    def test_its_own_warnings_are_findings(self) -> None:
        assert (
            only(replace(WELL, daemon_warnings=("the disk is full",))).what
            == "the disk is full"
        )

    def test_an_endpoint_without_a_path_is_not_well(self) -> None:
        finding = only(replace(WELL, daemon_detached=("link-gone", "no-link")))
        assert finding.severity is Severity.WARNING
        assert finding.what == "the endpoint is detached: link-gone, no-link"

    def test_the_worst_comes_first(self) -> None:
        readings = replace(
            but(net__ipv4__ip_no_pmtu_disc="1"), daemon_paths=None, daemon_warnings=("x",)
        )
        order = [finding.severity for finding in judge(readings)]
        assert order == sorted(order, key=list(Severity).index)
