import pytest

from gateway.settings import GatewaySettings, Limits, SettingsError


def test_defaults_environment_and_flags_take_precedence_in_this_order() -> None:
    environ = {
        "DYNAPOD_GATEWAY_PORT": "81",
        "DYNAPOD_GATEWAY_HOST": "0.0.0.0",
        "DYNAPOD_GATEWAY_MAX_CACHE_BYTES": "2Gi",
    }
    settings = GatewaySettings.load(environ, {"port": 82, "host": None, "max_masks": 5})
    assert (settings.port, settings.host) == (82, "0.0.0.0")
    assert settings.limits == Limits(max_cache_bytes=2 * 1024**3, max_masks=5)
    assert GatewaySettings.load({}) == GatewaySettings()


def test_namespaces_are_a_list() -> None:
    settings = GatewaySettings.load({"DYNAPOD_GATEWAY_NAMESPACES": "jobs, more"})
    assert settings.namespaces == ("jobs", "more")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DYNAPOD_GATEWAY_PORT", "http"),
        ("DYNAPOD_GATEWAY_PORT", "70000"),
        ("DYNAPOD_GATEWAY_MAX_CACHE_BYTES", "5GB"),
        ("DYNAPOD_GATEWAY_MAX_CACHE_BYTES", "500Gi"),
        ("DYNAPOD_GATEWAY_DRAIN_SECONDS", "-1"),
        ("DYNAPOD_GATEWAY_STALL_SECONDS", "0"),
        ("DYNAPOD_GATEWAY_TRANSFERS", "0"),
        ("DYNAPOD_GATEWAY_NAMESPACES", " , "),
        ("DYNAPOD_GATEWAY_LOG_LEVEL", "loud"),
        ("DYNAPOD_GATEWAY_LOG_FORMAT", "xml"),
        ("DYNAPOD_GATEWAY_MAX_CACHE_BYTE", "1"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        GatewaySettings.load({variable: value})
    name = variable.removeprefix("DYNAPOD_GATEWAY_")
    assert name.lower() in str(caught.value).lower()


def test_an_unknown_flag_is_an_error() -> None:
    with pytest.raises(SettingsError, match="prot"):
        GatewaySettings.load({}, {"prot": 1})


def test_variables_of_a_service_named_like_the_gateway_are_none_of_ours() -> None:
    linked = {
        "DYNAPOD_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "DYNAPOD_GATEWAY_SERVICE_PORT_HTTP": "80",
        "DYNAPOD_GATEWAY_PORT": "tcp://10.0.0.1:80",
        "DYNAPOD_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert GatewaySettings.load(linked) == GatewaySettings()
