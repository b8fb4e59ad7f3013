"""Files that are right: what they mean, what they default to, what they never show."""

import os
from dataclasses import FrozenInstanceError, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.common import read_secret
from orchestrator.config.endpoint import EndpointConfig, EndpointPsk, TunnelMode
from orchestrator.config.reader import Reader
from orchestrator.config.server import LanSource, ServerConfig, ServerPsk
from orchestrator.config.toml import load, load_again
from orchestrator.core.absence import Patience, SessionPolicy
from orchestrator.core.errors import ConfigError
from orchestrator.core.hold import HoldLimits, HoldPolicy
from orchestrator.core.quantities import Seconds

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
SECRET = "correct horse battery staple"


def place(directory: Path, name: str, text: str, mode: int = 0o600) -> Path:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def endpoint(tmp_path: Path, rest: str = "", *, mode: int = 0o644) -> EndpointConfig:
    place(tmp_path, "secret", f"{SECRET}\n")
    text = f"""
role = "endpoint"
identity = "laptop1@example.org"
server = {{ identity = "vpn.example.org", addresses = ["203.0.113.10"] }}
auth = {{ kind = "psk", secret_file = "secret" }}
{rest}
"""
    config = load(place(tmp_path, "endpoint.toml", text, mode))
    assert isinstance(config, EndpointConfig)
    return config


def example(tmp_path: Path, name: str) -> Path:
    """The example as it is, but for where its files are."""
    text = (EXAMPLES / name).read_text()
    for secret in ("secret", "secrets/laptop1", "secrets/truck7"):
        place(tmp_path, secret, f"{SECRET}\n")
    return place(tmp_path, name, text.replace("/etc/orchestrator/", f"{tmp_path}/"))


def uncommented(tmp_path: Path, name: str) -> Path:
    """The example with all that is commented out switched on, but for what it calls an
    example."""
    lines = []
    inside = False
    for line in example(tmp_path, name).read_text().splitlines():
        setting = line.startswith("# ") and " = " in line and line[2].islower()
        continued = inside and line.startswith("#     ")
        if (setting or continued) and "    # an example" not in line:
            line = line[2:].split("    #")[0]
            inside = line.count("[") > line.count("]") or (continued and "]" not in line)
        lines.append(line)
    return place(tmp_path, name, "\n".join(lines))


def test_the_endpoint_example_is_right(tmp_path: Path) -> None:
    config = load(example(tmp_path, "endpoint.toml"))
    assert isinstance(config, EndpointConfig)
    assert config.server.addresses == (
        ip_address("203.0.113.10"),
        ip_address("2001:db8:113::10"),
    )
    assert config.auth.kind == "psk"


def test_the_server_example_is_right(tmp_path: Path) -> None:
    config = load(example(tmp_path, "server.toml"))
    assert isinstance(config, ServerConfig)
    assert config.vip.pools == (ip_network("10.99.0.0/24"), ip_network("fd00:99::/64"))
    assert config.vip.static["truck7@example.org"] == (
        ip_address("10.99.0.7"),
        ip_address("fd00:99::7"),
    )
    assert isinstance(config.auth, ServerPsk)
    assert config.auth.keys() == (
        ("laptop1@example.org", SECRET.encode()),
        ("truck7@example.org", SECRET.encode()),
    )


@pytest.mark.parametrize("name", ["endpoint.toml", "server.toml"])
def test_what_the_examples_comment_out_are_the_defaults(tmp_path: Path, name: str) -> None:
    plain = load(example(tmp_path, name))
    file = uncommented(tmp_path, name)
    assert file.read_text().count("\n# ") < (EXAMPLES / name).read_text().count("\n# ")
    assert load(file) == plain


def test_defaults_are_those_of_the_deciding_core(tmp_path: Path) -> None:
    config = endpoint(tmp_path)
    assert config.hold.policy == HoldPolicy()
    assert config.tunnel.mode is TunnelMode.FULL
    assert config.tunnel.vips == ()
    assert config.state.directory == Path("/var/lib/orchestrator")


def test_links_may_be_equal(tmp_path: Path) -> None:
    text = '[links]\npreference = [["en*", "eth*"], "wl*"]\nmetered = ["ww*"]\n'
    links = endpoint(tmp_path, text).links
    assert links.preference == (("en*", "eth*"), "wl*")
    assert links.metered == ("ww*",)


def test_links_may_be_in_order_as_ever(tmp_path: Path) -> None:
    links = endpoint(tmp_path, '[links]\npreference = ["en*", "wl*"]\n').links
    assert links.preference == ("en*", "wl*")


def test_sessions_are_waited_for_as_configured(tmp_path: Path) -> None:
    place(tmp_path, "secret", f"{SECRET}\n")
    text = """
role = "server"
identity = "vpn.example.org"
underlay = { interfaces = ["wan0"] }
auth = { kind = "psk", secret_file = "secret" }
vip = { pools = ["10.99.0.0/24"] }
"""
    plain = load(place(tmp_path, "server.toml", text))
    assert isinstance(plain, ServerConfig)
    assert plain.session_policy == SessionPolicy()
    text += """
limits = { sessions = 3, when_full = "evict" }
timers = { detach_after = "5s", asleep_after = "unlimited", expire_after = "30d" }
sessions."truck7@example.org" = { asleep_after = "1m", expire_after = "unlimited" }
"""
    config = load(place(tmp_path, "server.toml", text))
    assert isinstance(config, ServerConfig)
    assert config.session_policy == SessionPolicy(
        detach_after=Seconds(5.0),
        patience=Patience(None, Seconds(30 * 86400)),
        of_identity={"truck7@example.org": Patience(Seconds(60), None)},
        most=3,
        evict=True,
    )


def test_a_session_takes_from_the_common_tables_what_it_does_not_say(tmp_path: Path) -> None:
    place(tmp_path, "secret", f"{SECRET}\n")
    text = """
role = "server"
identity = "vpn.example.org"
underlay = { interfaces = ["wan0"] }
auth = { kind = "psk", secret_file = "secret" }
vip = { pools = ["10.99.0.0/24"] }
sessions.truck.hold = { max_bytes = "16MiB", query_ports = [5353] }
sessions.phone.expire_after = "8h"
"""
    common = """
hold = { flow_bytes = "2MiB", keep = "oldest", total = "1GiB" }
timers = { asleep_after = "1m", expire_after = "30d" }
"""
    plain = load(place(tmp_path, "server.toml", text))
    assert isinstance(plain, ServerConfig)
    limits = replace(HoldLimits(), max_bytes=16 * 1024**2)
    assert plain.hold_of("truck") == HoldPolicy(limits, query_ports=frozenset({5353}))
    assert plain.hold_of("phone") == plain.hold_of("nobody") == HoldPolicy()
    assert plain.session_policy.patience_with("phone") == Patience(
        Seconds(600), Seconds(8 * 3600)
    )
    config = load(place(tmp_path, "server.toml", text + common))
    assert isinstance(config, ServerConfig)
    truck, phone = config.hold_of("truck").limits, config.hold_of("phone").limits
    assert (truck.max_bytes, phone.max_bytes) == (16 * 1024**2, 4 * 1024**2)
    assert truck.flow_bytes == phone.flow_bytes == 2 * 1024**2
    assert truck.keep_oldest
    assert config.session_policy.patience_with("truck") == config.session_policy.patience
    assert config.hold.total == 1024**3


def test_relative_paths_start_where_the_file_stands(tmp_path: Path) -> None:
    config = endpoint(tmp_path, 'state.directory = "state"\ncharon.socket = "/run/x"')
    assert config.state.directory == tmp_path / "state"
    assert config.charon.socket == Path("/run/x")


def test_reads_values_of_every_kind(tmp_path: Path) -> None:
    config = endpoint(
        tmp_path,
        """
tunnel = { mode = "split", prefixes = ["10.0.0.0/8"], vips = ["10.99.0.7", "fd00:99::7"] }
hold = { max_bytes = "2MiB", datagram_age = "8h", keep = "oldest", query_ports = [53] }
timers = { attempt = "4s", probe_interval = "500ms" }
links = { exclude = ["eth1"] }
""",
    )
    assert config.tunnel.prefixes == (ip_network("10.0.0.0/8"),)
    assert [vip.version for vip in config.tunnel.vips] == [4, 6]
    limits = HoldLimits(2 * 1024 * 1024, datagram_age=Seconds(28800), keep_oldest=True)
    assert config.hold.policy == HoldPolicy(limits, query_ports=frozenset({53}))
    assert config.timers.attempt == 4.0
    assert config.timers.probe_interval == 0.5


def test_our_own_devices_are_never_an_outer_path(tmp_path: Path) -> None:
    exclude = endpoint(tmp_path, 'links = { exclude = ["eth1"] }').links.exclude
    assert exclude == ("eth1", "lo", "vip0", "vips0")


def test_a_server_lease_lasts_for_ever_unless_limited(tmp_path: Path) -> None:
    config = load(example(tmp_path, "server.toml"))
    assert isinstance(config, ServerConfig)
    assert config.vip.lease_time is None
    assert config.lan.source is LanSource.VIP


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = endpoint(tmp_path)
    with pytest.raises(FrozenInstanceError):
        config.identity = "other"  # type: ignore[misc]  # what is tested


def test_an_inline_secret_is_taken_from_a_secret_file_only(tmp_path: Path) -> None:
    text = f"""
role = "endpoint"
identity = "a"
server = {{ identity = "b", names = ["vpn.example.org"] }}
auth = {{ kind = "psk", secret = "{SECRET}" }}
"""
    config = load(place(tmp_path, "endpoint.toml", text, 0o600))
    assert isinstance(config, EndpointConfig)
    assert isinstance(config.auth, EndpointPsk)
    assert config.auth.key() == SECRET.encode()
    for mode in (0o640, 0o604, 0o620):
        with pytest.raises(ConfigError) as caught:
            load(place(tmp_path, "endpoint.toml", text, mode))
        assert "chmod 600" in caught.value.faults[0].remedy
        assert SECRET not in str(caught.value)


def test_a_secret_is_never_in_a_repr(tmp_path: Path) -> None:
    text = f"""
role = "endpoint"
identity = "a"
server = {{ identity = "b", names = ["vpn.example.org"] }}
auth = {{ kind = "psk", secret = "{SECRET}" }}
"""
    config = load(place(tmp_path, "endpoint.toml", text))
    assert SECRET not in repr(config)
    assert SECRET not in str(config)


@pytest.mark.parametrize("mode", [0o644, 0o606, 0o602])
def test_a_secret_file_that_everybody_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    place(tmp_path, "open", SECRET, mode)
    endpoint(tmp_path)
    text = (tmp_path / "endpoint.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        load(place(tmp_path, "endpoint.toml", text.replace('"secret"', '"open"')))
    assert caught.value.faults[0].remedy == f"run `chmod 600 {tmp_path / 'open'}`"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000])
def test_a_file_without_a_usable_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError):
        read_secret(tmp_path / "secret")


def test_a_secret_is_read_without_its_line_end(tmp_path: Path) -> None:
    assert read_secret(place(tmp_path, "secret", f"{SECRET}\r\n")) == SECRET.encode()


@pytest.mark.parametrize("content", [b"role = \xff", b"#" * (1024 * 1024 + 1)])
def test_what_is_no_configuration_at_all_is_said_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError):
        load(tmp_path / "c.toml")


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.toml")
    assert "No such file" in str(caught.value)
    with pytest.raises(ConfigError):
        load(tmp_path)


JSONLIKE = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["kind", "identity", "addresses", "secrets", "static", "pools", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from([EndpointConfig, ServerConfig]),
    st.dictionaries(
        st.sampled_from(["role", "identity", "server", "auth", "vip", "tunnel", "underlay"]),
        JSONLIKE,
    ),
)
@settings(deadline=None, max_examples=300)
def test_anything_in_a_file_is_read_or_refused(
    cls: type[EndpointConfig | ServerConfig], raw: dict[str, object]
) -> None:
    reader = Reader(Path("/nowhere"))
    config = reader.table(cls, raw, ())
    assert (config is None) == bool(reader.found)


def test_one_key_for_all_beside_keys_for_each_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "secret", f"{SECRET}\n")
    text = """
role = "server"
identity = "b"
underlay = { interfaces = ["lo"] }
auth = { kind = "psk", secret_file = "secret", secrets = { a = "secret" } }
vip = { pools = ["10.99.0.0/24"] }
"""
    with pytest.raises(ConfigError) as caught:
        load(place(tmp_path, "server.toml", text))
    (fault,) = caught.value.faults
    assert (fault.line, "pose as" in fault.problem) == (5, True)


def test_a_daemon_does_not_wait_for_who_may_write_into_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "server.toml")
    with pytest.raises(ConfigError, match="is not a file"):
        load_again(tmp_path / "server.toml")


def test_what_is_read_again_is_what_is_read_first(tmp_path: Path) -> None:
    first = endpoint(tmp_path)
    assert load_again(tmp_path / "endpoint.toml") == first
    (tmp_path / "endpoint.toml").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        load_again(tmp_path / "endpoint.toml")
