"""The steps of a rotation: their order, their times, and that each may be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keystay.errors import RotationError
from keystay.ops.rotation import steps
from keystay.smart.vendors import vendor_of
from tests.unit.tokens.key_state.keys import JWKS, NOW, URL, after, key, published, state

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from keystay.tokens.key_state.state import RotationState

OTHER = vendor_of("https://fhir.example.org")
EPIC = vendor_of("https://fhir.example.org", "epic")
STARTED = state(key(0, "current"), key(1, "next"))
PROMOTED = state(key(1, "current"), key(0, "retiring", drain_seconds=300), key(2, "retired"))


def refusal(step: Callable[[], object]) -> RotationError:
    """The refusal of a step; always with a remedy that names a command."""
    with pytest.raises(RotationError) as caught:
        step()
    assert "keystay rotate" in (caught.value.hint or "")
    assert 3 == caught.value.exit_code
    return caught.value


def seen(at: datetime = NOW, *, max_age: int | None = 60) -> RotationState:
    """Started, and seen at the URL."""
    return steps.see(STARTED, published(0, 1, max_age=max_age), OTHER, at)


class TestSee:
    """What a look at the URL changes."""

    def test_first_sight_counts(self) -> None:
        """Seen again later, the time still runs from the first."""
        again = steps.see(seen(), published(1, 0), OTHER, after(30))
        found = again.of("next")
        assert found is not None
        assert (NOW, URL, 60) == (found.seen, found.seen_at, found.cache_seconds)

    def test_gone_again_starts_anew(self) -> None:
        """A publisher that goes back to an older set makes the wait begin again."""
        gone = steps.see(seen(), published(0), OTHER, after(10))
        assert "rotation-not-published" == refusal(lambda: steps.promote(gone, after(99))).code
        back = steps.see(gone, published(0, 1), OTHER, after(50))
        assert "rotation-too-early" == refusal(lambda: steps.promote(back, after(99))).code
        assert back != steps.promote(back, after(110))

    def test_another_key_under_its_kid_is_not_it(self) -> None:
        """What counts is the key, not its name."""
        forged = published(0)
        forged = type(forged)(
            URL, type(forged.keys)((JWKS[0], {**JWKS[2], "kid": JWKS[1]["kid"]})), 60
        )
        found = steps.see(STARTED, forged, OTHER, NOW).of("next")
        assert found is not None
        assert None is found.seen

    def test_longest_cache_time_counts(self) -> None:
        """A max-age that was lowered on the way does not reach the copies made before."""
        before = steps.see(STARTED, published(0, max_age=3600), OTHER, NOW)
        later = steps.see(before, published(0, 1, max_age=5), OTHER, after(1))
        assert "1 h" in refusal(lambda: steps.promote(later, after(1))).message

    @pytest.mark.parametrize(
        ("vendor", "max_age", "seconds"),
        [
            (EPIC, None, 29 * 3600), (EPIC, 60, 60), (EPIC, 7 * 86400, 29 * 3600),
            (OTHER, None, 24 * 3600), (OTHER, 7 * 86400, 7 * 86400), (OTHER, 0, 0),
        ],
    )  # fmt: skip
    def test_cache_time(self, vendor: object, max_age: int | None, seconds: int) -> None:
        """Cache-Control, else the vendor's; Epic keeps nothing for longer than its 29 hours."""
        assert isinstance(vendor, type(OTHER))
        found = steps.see(STARTED, published(0, 1, max_age=max_age), vendor, NOW).of("next")
        assert found is not None
        assert seconds == found.cache_seconds

    def test_clock_set_back(self) -> None:
        """A sight that lies in the future starts anew: nobody knows how much time has passed."""
        found = steps.see(seen(after(1000)), published(0, 1), OTHER, NOW).of("next")
        assert found is not None
        assert NOW == found.seen

    def test_nothing_under_way(self) -> None:
        """Without a successor there is nothing to see."""
        assert PROMOTED is steps.see(PROMOTED, published(1), OTHER, NOW)


class TestPromote:
    """When the successor may sign."""

    def test_not_seen(self) -> None:
        """Refused, and says how to publish."""
        error = refusal(lambda: steps.promote(STARTED, after(1e6)))
        assert "rotation-not-published" == error.code
        assert "keystay jwks etl --out FILE" in (error.hint or "")

    @pytest.mark.parametrize(("waited", "left"), [(0, "1 min"), (1, "59 s"), (59.5, "1 s")])
    def test_too_early(self, waited: float, left: str) -> None:
        """Refused with the time left, where it was seen, and why so long."""
        error = refusal(lambda: steps.promote(seen(), after(waited)))
        assert "rotation-too-early" == error.code
        assert f"for another {left}." in error.message
        assert f"{URL} on 2026-11-24 12:00:00 UTC" in (error.cause or "")
        assert "Cache-Control" in (error.cause or "")

    def test_clock_set_back_shortens_nothing(self) -> None:
        """Before the sight: the whole wait is left."""
        assert "another 1 min" in refusal(lambda: steps.promote(seen(after(50)), NOW)).message

    @pytest.mark.parametrize(("before", "force"), [(seen(), False), (STARTED, True)])
    def test_in_time_or_forced(self, before: RotationState, force: bool) -> None:
        """The successor signs, the old key retires; nothing of the wait is kept."""
        changed = steps.promote(before, after(60), drain=120, force=force)
        assert key(1, "current").jwk == changed.current.jwk
        retiring = changed.of("retiring")
        assert retiring is not None
        assert (JWKS[0]["kid"], after(60), 120) == (
            retiring.kid, retiring.since, retiring.drain_seconds,
        )  # fmt: skip
        assert None is changed.current.seen

    def test_repeated(self) -> None:
        """Done already: the state as it is."""
        assert PROMOTED is steps.promote(PROMOTED, NOW)

    def test_never_started(self) -> None:
        """Nothing to promote."""
        assert (
            "rotation-not-started"
            == refusal(lambda: steps.promote(state(key(0, "current")), NOW, force=True)).code
        )

    def test_not_made(self) -> None:
        """A start that was interrupted has to be repeated first, forced or not."""
        intent = state(key(0, "current"), key(1, "next"))
        made = intent.of("next")
        assert made is not None
        import msgspec

        unmade = intent.with_keys(
            intent.current, msgspec.structs.replace(made, jwk=None, kid=None, key_type="P-384")
        )
        assert (
            "rotation-not-started" == refusal(lambda: steps.promote(unmade, NOW, force=True)).code
        )


class TestFinish:
    """When the old key may leave the set."""

    @pytest.mark.parametrize(("waited", "left"), [(0, "5 min"), (299.2, "1 s"), (-99, "5 min")])
    def test_draining(self, waited: float, left: str) -> None:
        """Refused with the time left; a clock that was set back shortens nothing."""
        error = refusal(lambda: steps.finish(PROMOTED, after(waited)))
        assert "rotation-draining" == error.code
        assert f"another {left}." in error.message

    @pytest.mark.parametrize(("waited", "force"), [(300, False), (0, True)])
    def test_over_or_forced(self, waited: float, force: bool) -> None:
        """It is retired: its public key is not even kept."""
        changed = steps.finish(PROMOTED, after(waited), force=force)
        assert ["current", "retired", "retired"] == [k.state for k in changed.keys]
        assert (JWKS[0]["kid"], None) == (changed.keys[1].kid, changed.keys[1].jwk)
        assert [JWKS[1]] == list(changed.published())
        assert changed is steps.finish(changed, after(waited))

    def test_before_promotion(self) -> None:
        """The order cannot be turned round, not even by force."""
        error = refusal(lambda: steps.finish(STARTED, NOW, force=True))
        assert "rotation-not-promoted" == error.code


class TestAbort:
    """Giving a rotation up."""

    def test_before_promotion(self) -> None:
        """The successor leaves the set at once: it signed nothing."""
        changed = steps.abort(STARTED, NOW)
        assert [JWKS[0]] == list(changed.published())
        assert (True, JWKS[1]["kid"]) == (changed.keys[1].aborted, changed.keys[1].kid)
        assert changed is steps.abort(changed, NOW)

    def test_after_promotion(self) -> None:
        """The old key, published still, signs again; the successor drains. Not back and forth."""
        changed = steps.abort(PROMOTED, after(10))
        assert JWKS[0] == changed.current.jwk
        assert [JWKS[0], JWKS[1]] == list(changed.published())
        assert changed is steps.abort(changed, after(20))
        assert "rotation-draining" == refusal(lambda: steps.finish(changed, after(309))).code
        assert [JWKS[0]] == list(steps.finish(changed, after(310)).published())
        assert "rotation-not-started" == refusal(lambda: steps.promote(changed, NOW)).code

    def test_nothing_under_way(self) -> None:
        """Nothing to give up."""
        alone = state(key(0, "current"))
        assert alone is steps.abort(alone, NOW)


class TestStart:
    """When a rotation may begin."""

    def test_another_is_not_finished(self) -> None:
        """A third key would push the retiring one out of sight."""
        error = refusal(lambda: steps.start(PROMOTED, key(2, "next")))
        assert "rotation-unfinished" == error.code

    def test_long_history_is_cut(self) -> None:
        """The file does not grow for ever."""
        now, found = 0.0, state(key(0, "current"))
        for turn in range(30):
            found = steps.start(found, key(1 + turn % 2, "next"))
            found = steps.promote(found, after(now), drain=0, force=True)
            found = steps.finish(found, after(now))
            now += 1
        assert 11 == len(found.keys)
        assert after(29) == found.keys[1].since
