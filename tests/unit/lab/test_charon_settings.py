"""Dotted settings become the sections of strongswan.conf."""

import pytest

from orchestrator.lab.charon import render


def test_settings_share_their_sections() -> None:
    rendered = render({"charon.a": "1", "charon.plugins.vici.socket": "x", "charon.b": "2"})
    assert rendered == (
        "charon {\n    a = 1\n    plugins {\n        vici {\n"
        "            socket = x\n        }\n    }\n    b = 2\n}\n"
    )


def test_a_setting_is_no_section() -> None:
    with pytest.raises(TypeError, match="a is a setting, not a section"):
        render({"charon.a": "1", "charon.a.b": "2"})
