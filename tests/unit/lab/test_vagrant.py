"""What the virtual machines are made from fits the description of the lab."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lab import machine, product, serve
from orchestrator.lab.internet import INTERNET

CLONE = Path(__file__).parents[3]
VAGRANT = CLONE / "vagrant"
SCRIPTS = [
    file for file in VAGRANT.iterdir() if file.is_file() and file.read_bytes()[:2] == b"#!"
]
FAKE_VAGRANT = """
require "json"

# Vagrant's side of a Vagrantfile: remembers what is said to it, and says it as JSON.
class Listener
  attr_reader :heard

  def initialize
    @heard = {}
  end

  def method_missing(word, *arguments, **options, &block)
    return self if word == :vm
    below = Listener.new
    block&.call(below)
    said = { "arguments" => arguments, "options" => options, "inside" => below.heard }
    (@heard[word.to_s] ||= []) << said
  end
end

module Vagrant
  def self.configure(_version)
    listener = Listener.new
    yield listener
    puts JSON.generate(listener.heard)
  end
end

load ARGV.fetch(0)
"""


@pytest.fixture(scope="module")
def machines() -> dict[str, Any]:
    """By host: what the Vagrantfile says about its machine."""
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("no ruby here, which comes with vagrant")
    said = subprocess.run(
        [ruby, "-e", FAKE_VAGRANT, VAGRANT / "Vagrantfile"],
        capture_output=True,
        text=True,
        check=True,
    )
    defined = json.loads(said.stdout)["define"]
    return {each["arguments"][0]: each["inside"] for each in defined}


def test_there_are_scripts_to_check() -> None:
    assert {"bootstrap", "lab", "names", "provision", "units"} == {
        each.name for each in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_shell(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


def test_every_host_is_a_machine(machines: dict[str, Any]) -> None:
    assert list(machines) == [host.name for host in INTERNET.hosts]


@pytest.mark.parametrize("provider", ["libvirt__network_name", "virtualbox__intnet"])
def test_every_link_joins_two_machines(machines: dict[str, Any], provider: str) -> None:
    joined: dict[str, list[str]] = {}
    for name, said in machines.items():
        for network in said["network"]:
            joined.setdefault(network["options"][provider], []).append(name)
    assert {name: sorted(hosts) for name, hosts in joined.items()} == {
        f"lab-{link.name}": sorted(end.host for end in link.ends) for link in INTERNET.links
    }


def test_devices_are_named_by_the_addresses_of_their_cables(machines: dict[str, Any]) -> None:
    seen: set[str] = set()
    for name, said in machines.items():
        (provision,) = said["provision"]
        host, *names = provision["options"]["args"]
        assert host == name
        device_of = dict(zip(names[::2], names[1::2], strict=True))
        for network in said["network"]:
            options = network["options"]
            mac = options["libvirt__mac"]
            assert options["virtualbox__mac"] == mac.replace(":", "")
            assert mac not in seen
            seen.add(mac)
            link = INTERNET.link(options["libvirt__network_name"].removeprefix("lab-"))
            assert device_of.pop(mac) in {e.device for e in link.ends if e.host == name}
        assert not device_of


def test_machines_are_not_configured_behind_our_back(machines: dict[str, Any]) -> None:
    for said in machines.values():
        for network in said["network"]:
            assert network["options"]["auto_config"] is False
            assert network["options"]["libvirt__dhcp_enabled"] is False


@pytest.mark.parametrize("role", ["endpoint", "server"])
def test_units_are_those_of_the_readme(tmp_path: Path, role: str) -> None:
    subprocess.run([VAGRANT / "units", role, tmp_path], check=True)
    charon = (tmp_path / "orchestrator-charon.service").read_text()
    daemon = (tmp_path / "orchestrator.service").read_text()
    assert f"STRONGSWAN_CONF=/etc/strongswan.d/orchestrator/{role}.conf\n" in charon
    assert f"bin/orchestrator run /etc/orchestrator/{role}.toml\n" in daemon
    assert len(list(tmp_path.iterdir())) == 2
    for unit in (charon, daemon):
        assert unit.startswith("[Unit]\n")
        assert unit.endswith("[Install]\nWantedBy=multi-user.target\n")


def test_a_router_needs_no_package_of_python() -> None:
    subprocess.run(
        [sys.executable, "-S", "-c", f"import {machine.__name__}, {serve.__name__}"],
        env={"PYTHONPATH": str(CLONE)},
        check=True,
    )


@pytest.mark.parametrize(
    ("role", "text"), [("endpoint", product.ENDPOINT), ("server", product.SERVER)]
)
def test_daemons_get_the_labs_own_configuration(tmp_path: Path, role: str, text: str) -> None:
    machine.configure(INTERNET, role, tmp_path)
    folder = tmp_path / "etc/orchestrator"
    assert (folder / f"{role}.toml").read_text() == text
    assert (folder / "secret").read_text() == product.SECRET
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600


def test_a_peer_lets_the_lab_in_on_its_own_addresses(tmp_path: Path) -> None:
    machine.configure(INTERNET, "peer2", tmp_path, served_octets=100)
    settings = (tmp_path / "etc/ssh/sshd_config.d/lab.conf").read_text()
    assert settings.startswith("Match User lab LocalAddress 10.51.2.2,fd00:51:2::2\n")
    assert not (tmp_path / "etc/orchestrator").exists()
    assert (tmp_path / machine.SERVED_FILE).read_bytes() == serve.content(100)


def test_configuring_twice_is_configuring_once(tmp_path: Path) -> None:
    def written() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    machine.configure(INTERNET, "endpoint", tmp_path)
    before = written()
    machine.configure(INTERNET, "endpoint", tmp_path)
    assert written() == before
    assert "127.0.1.1 endpoint\n" in (tmp_path / "etc/hosts").read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "usage: "),
        (("up",), "usage: "),
        (("up", "nobody"), "lab: the lab has no host 'nobody'"),
        (("roam", "wan"), "lab: wan is not an access link"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(SystemExit, match=complaint):
        machine.main(*words)
