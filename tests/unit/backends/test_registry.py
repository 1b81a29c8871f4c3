"""The registry, on real distributions: good ones, broken ones, and two that want the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from keystay import key_uri
from keystay.backends import BackendContext
from keystay.backends.registry import BackendEntry, Registry, default_registry
from keystay.errors import (
    BackendConflictError,
    BackendError,
    BackendLoadError,
    BackendMissingError,
    LoginError,
)
from tests.support.plugins import Plugins
from tests.support.secrets_watch import WATCH

SECRET = WATCH.add("the PIN of the registry tests", "registry-pin-4418")

KEY = """
class Key:
    def __init__(self, *given): self.given = given
    def describe(self): ...
    def sign(self, request): ...
    def health(self, deadline): ...
    def close(self): ...
class Store:
    def list_keys(self): return []
    def close(self): ...
"""
GOOD = f"""
from keystay.backends import hookimpl
api_version = 1
{KEY}
@hookimpl
def keystay_open_key(uri, context): return Key(uri, context)
"""


def open_key(text: str = "demo:key", registry: Registry | None = None) -> Any:
    """The key a URI names."""
    return (registry or Registry()).open_key(key_uri.parse(text), BackendContext())


def broken(text: str = "demo:key") -> BackendLoadError:
    """The error a broken plugin ends in, which names it and how to repair it."""
    with pytest.raises(BackendLoadError) as caught:
        open_key(text)
    assert "backend-broken" == caught.value.code
    assert "The backend demo-plugin for demo: keys cannot be used" in caught.value.message
    assert "pip install --upgrade --force-reinstall demo-plugin keystay" == caught.value.hint
    WATCH.check(str(caught.value), "the error")
    return caught.value


class TestListing:
    """Metadata is read, nothing is imported."""

    def test_entries(self, plugins: Plugins) -> None:
        """Each claim with scheme, module, distribution and version, sorted by scheme."""
        plugins.add("zz-plugin", None, scheme="alpha")
        plugins.add("demo-plugin", "raise SystemExit")
        found = [e for e in Registry().entries() if e.distribution in ("zz-plugin", "demo-plugin")]
        assert [
            BackendEntry("alpha", "zz_plugin", "zz-plugin", "1.2"),
            BackendEntry("demo", "demo_plugin", "demo-plugin", "1.2"),
        ] == found
        assert {"zz_plugin", "demo_plugin"}.isdisjoint(sys.modules)

    def test_our_own(self) -> None:
        """The installed plugins are found."""
        ours = {(e.scheme, e.distribution) for e in default_registry().entries()}
        assert {("file", "keystay-pem"), ("pkcs11", "keystay-pkcs11")} <= ours
        assert default_registry() is default_registry()

    def test_nothing_is_imported(self, tmp_path: Path) -> None:
        """In a fresh interpreter neither the plugins nor their SDKs are loaded by listing."""
        with pytest.MonkeyPatch.context() as patch:
            Plugins(tmp_path, patch).add("demo-plugin", "raise SystemExit(9)")
        program = (
            "import sys, json\n"
            "from keystay.backends.registry import Registry\n"
            "schemes = [e.scheme for e in Registry().entries()]\n"
            "print(json.dumps([schemes, sorted(sys.modules)]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        schemes, modules = json.loads(done.stdout)
        assert {"demo", "file", "pkcs11"} <= set(schemes)
        assert set() == {
            "demo_plugin",
            "keystay_pem",
            "keystay_pkcs11",
            "pkcs11",
            "cryptography",
        } & (set(modules))

    def test_half_removed_distribution(self, plugins: Plugins) -> None:
        """Entry points without metadata are listed, and do not spoil the list."""
        plugins.add("demo-plugin", GOOD, meta=False)
        plugins.add("other-plugin", GOOD)
        found = [e.distribution for e in Registry().entries() if e.scheme == "demo"]
        assert ["other-plugin", "unknown"] == found
        with pytest.raises(BackendConflictError, match="demo_plugin, other-plugin"):
            open_key()

    def test_without_distribution(self) -> None:
        """An entry point that belongs to none is listed as unknown."""
        point = metadata.EntryPoint("demo", "demo_plugin", "keystay.backends")
        assert [BackendEntry("demo", "demo_plugin", "unknown", "unknown")] == (
            Registry(lambda: [point]).entries()
        )


class TestGood:
    """A plugin that works."""

    def test_opens(self, plugins: Plugins) -> None:
        """It is given the URI and the context; another call does not import it again."""
        plugins.add("demo-plugin", GOOD)
        registry = Registry()
        first, second = open_key(registry=registry), open_key(registry=registry)
        assert "demo:key" == str(first.given[0])
        assert isinstance(first.given[1], BackendContext)
        assert type(first) is type(second)

    def test_object_reference(self, plugins: Plugins) -> None:
        """The entry point may name an object within a module."""
        source = (
            f"class plugin:\n    api_version = 1\n    @staticmethod\n"
            f"    def keystay_open_key(uri): return Key(uri)\n{KEY}"
            "from keystay.backends import hookimpl\nhookimpl(plugin.keystay_open_key)\n"
        )
        plugins.add("demo-plugin", source, target="demo_plugin:plugin")
        assert "demo:key" == str(open_key().given[0])

    def test_fewer_arguments(self, plugins: Plugins) -> None:
        """A hook may take only what it needs."""
        plugins.add(
            "demo-plugin",
            GOOD.replace("(uri, context): return Key(uri, context)", "(): return Key()"),
        )
        assert () == open_key().given

    def test_only_its_scheme_is_asked(self, plugins: Plugins) -> None:
        """Hooks of other backends are not called, nor imported."""
        plugins.add("demo-plugin", GOOD)
        plugins.add("other-plugin", "raise RuntimeError", scheme="other")
        open_key()
        assert "other_plugin" not in sys.modules

    def test_threads(self, plugins: Plugins) -> None:
        """Sixteen threads at once import it once."""
        plugins.add("demo-plugin", "import time; time.sleep(0.05)\n" + GOOD)
        registry, barrier = Registry(), threading.Barrier(16)

        def work(_: int) -> type:
            barrier.wait()
            return type(open_key(registry=registry))

        with ThreadPoolExecutor(16) as pool:
            assert 1 == len(set(pool.map(work, range(16))))

    def test_same_distribution_twice(self, plugins: Plugins) -> None:
        """Found twice on the path (editable and installed), it is one claimant."""
        plugins.add("demo-plugin", GOOD)
        plugins.add("demo-plugin", GOOD, folder=plugins.path("again"), version="1.3")
        assert "demo:key" == str(open_key().given[0])
        entries = [e for e in Registry().entries() if e.scheme == "demo"]
        assert ["1.3"] == [e.version for e in entries]

    def test_same_claim_twice(self, plugins: Plugins) -> None:
        """Also where the metadata hands it out twice."""
        plugins.add("demo-plugin", GOOD)
        points = tuple(metadata.entry_points(group="keystay.backends", name="demo"))
        registry = Registry(lambda: points * 2)
        assert "demo:key" == str(open_key(registry=registry).given[0])
        assert 1 == len(registry.entries())

    def test_store(self, plugins: Plugins) -> None:
        """A store is opened by its own hook."""
        plugins.add(
            "demo-plugin", GOOD + "@hookimpl\ndef keystay_open_store(uri): return Store()\n"
        )
        store = Registry().open_store(key_uri.parse("demo:key"), BackendContext())
        assert "Store" == type(store).__name__


class TestBroken:
    """A broken plugin breaks nothing but itself."""

    @pytest.mark.parametrize(
        ("source", "why"),
        [
            pytest.param(None, "it raised ModuleNotFoundError", id="missing module"),
            pytest.param("import no_such_sdk", "it raised ModuleNotFoundError", id="missing SDK"),
            pytest.param("def (", "it raised SyntaxError", id="syntax error"),
            pytest.param(f"raise RuntimeError('{SECRET}')", "it raised RuntimeError", id="raises"),
            pytest.param("import sys; sys.exit(3)", "it raised SystemExit", id="exits"),
            pytest.param("", "it does not state its api_version", id="empty"),
            pytest.param("api_version = None", "does not state its api_version", id="no version"),
            pytest.param(
                GOOD.replace("api_version = 1", "api_version = 2"),
                "it speaks version 2 of the plugin interface, this keystay 1",
                id="newer version",
            ),
            pytest.param(
                GOOD.replace("api_version = 1", "api_version = '1'"),
                "it speaks version '1'",
                id="version as text",
            ),
            pytest.param("api_version = 1", "does not implement keystay_open_key", id="no hook"),
            pytest.param(
                GOOD.replace("@hookimpl", ""), "does not implement", id="hook without its mark"
            ),
            pytest.param(
                GOOD.replace("keystay_open_key", "keystay_open_kee"),
                "does not implement",
                id="hook misspelt",
            ),
            pytest.param(
                GOOD.replace("(uri, context):", "(uri, context, secret):"),
                "hooks do not fit the specification",
                id="hook wants more",
            ),
        ],
    )
    def test_import_and_hooks(self, plugins: Plugins, source: str | None, why: str) -> None:
        """Each way of being broken is told precisely, and the other backends go on."""
        plugins.add("demo-plugin", source)
        plugins.add("other-plugin", GOOD, scheme="other")
        assert why in broken().message
        assert "other:key" == str(open_key("other:key").given[0])

    @pytest.mark.parametrize("target", ["demo_plugin:nothing", "demo plugin", "demo_plugin:"])
    def test_bad_reference(self, plugins: Plugins, target: str) -> None:
        """An entry point that leads nowhere is the plugin's fault."""
        plugins.add("demo-plugin", "api_version = 1", target=target)
        assert "cannot be used" in broken().message

    def test_repaired(self, plugins: Plugins) -> None:
        """A failure is not remembered: once repaired, it works."""
        module = plugins.add("demo-plugin", "raise RuntimeError")
        registry = Registry()
        with pytest.raises(BackendLoadError):
            open_key(registry=registry)
        (plugins.folder / f"{module}.py").write_text(GOOD + "# longer, so that it is compiled anew")
        assert "demo:key" == str(open_key(registry=registry).given[0])


class TestHookResults:
    """What a hook raises or returns."""

    @staticmethod
    def install(plugins: Plugins, body: str, hook: str = "keystay_open_key") -> None:
        """A plugin whose hook does this."""
        good = GOOD if hook != "keystay_open_key" else GOOD.partition("@hookimpl")[0]
        plugins.add("demo-plugin", f"{good}\n@hookimpl\ndef {hook}(uri, context):\n    {body}\n")

    def test_foreign_exception(self, plugins: Plugins) -> None:
        """It becomes a BackendError that tells its type, and not its text."""
        self.install(plugins, f"raise ValueError('{SECRET}')")
        with pytest.raises(BackendError) as caught:
            open_key()
        assert "backend-unexpected" == caught.value.code
        assert "The backend of demo:key failed unexpectedly (ValueError)." == caught.value.message
        assert isinstance(caught.value.__cause__, ValueError)
        WATCH.check(f"{caught.value} {caught.value!r}", "the error")

    def test_our_exception(self, plugins: Plugins) -> None:
        """An error of our family passes."""
        self.install(plugins, "from keystay.errors import LoginError; raise LoginError('No.')")
        with pytest.raises(LoginError, match=r"No\."):
            open_key()

    @pytest.mark.parametrize(
        "value",
        ["None", "7", "'key'", "object()", "Key", "Store()"],
    )
    def test_garbage(self, plugins: Plugins, value: str) -> None:
        """What is not a key is the plugin's fault."""
        if value == "Key":
            value = "type('Half', (), {'sign': print, 'close': print})()"
        self.install(plugins, f"return {value}")
        with pytest.raises(BackendLoadError, match="returned no key"):
            open_key()

    @pytest.mark.parametrize("value", ["None", "7", "Key()"])
    def test_no_store(self, plugins: Plugins, value: str) -> None:
        """A backend without a store, or with one that can do nothing, says so."""
        self.install(plugins, f"return {value}", "keystay_open_store")
        with pytest.raises(BackendError) as caught:
            Registry().open_store(key_uri.parse("demo:key"), BackendContext())
        assert "backend-capability-missing" == caught.value.code

    def test_no_store_hook(self, plugins: Plugins) -> None:
        """A backend need not have one."""
        plugins.add("demo-plugin", GOOD)
        with pytest.raises(BackendError, match="neither generates nor lists"):
            Registry().open_store(key_uri.parse("demo:key"), BackendContext())


class TestConflict:
    """Two distributions claim one scheme."""

    def test_both_are_named(self, plugins: Plugins) -> None:
        """Neither is imported; the error names both."""
        plugins.add("demo-plugin", GOOD)
        plugins.add("evil-plugin", GOOD)
        with pytest.raises(BackendConflictError) as caught:
            open_key()
        assert "Several distributions claim demo: keys: demo-plugin, evil-plugin." == (
            caught.value.message
        )
        assert {"demo_plugin", "evil_plugin"}.isdisjoint(sys.modules)

    def test_ours_is_not_replaced(self, plugins: Plugins) -> None:
        """Nobody takes file: from keystay-pem by being found first."""
        plugins.add("aaa-plugin", GOOD, scheme="file")
        with pytest.raises(BackendConflictError, match="aaa-plugin, keystay-pem"):
            open_key("file:client.pem")

    def test_others_are_not_touched(self, plugins: Plugins) -> None:
        """A quarrel over one scheme leaves the others usable."""
        for name in ("demo-plugin", "evil-plugin"):
            plugins.add(name, GOOD)
        plugins.add("other-plugin", GOOD, scheme="other")
        assert "other:key" == str(open_key("other:key").given[0])


class TestMissing:
    """Nobody claims the scheme."""

    @pytest.mark.parametrize(
        ("scheme", "hint"),
        [
            pytest.param("file", "pip install keystay-pem", id="file"),
            pytest.param("pkcs11", "pip install keystay-pkcs11", id="pkcs11"),
            pytest.param("awskms", "pip install keystay-aws-kms", id="awskms"),
            pytest.param("gcpkms", "pip install keystay-gcp-kms", id="gcpkms"),
            pytest.param("vault", "Install the plugin that provides vault: keys", id="another"),
        ],
    )
    def test_install_command(self, scheme: str, hint: str) -> None:
        """The remedy for ours is the command; what is installed is told."""
        point = metadata.EntryPoint("demo", "demo_plugin", "keystay.backends")
        path = "object=key" if scheme == "pkcs11" else "key"
        with pytest.raises(BackendMissingError) as caught:
            open_key(f"{scheme}:{path}", Registry(lambda: [point]))
        assert f"No installed backend opens {scheme}: keys." == caught.value.message
        assert "Installed backends: demo." == caught.value.cause
        assert (caught.value.hint or "").startswith(hint)

    def test_nothing_installed(self) -> None:
        """Without any backend that is said."""
        with pytest.raises(BackendMissingError, match="Installed backends: none"):
            open_key("file:key", Registry(lambda: ()))
