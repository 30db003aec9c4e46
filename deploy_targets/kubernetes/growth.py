"""How many pods each revision of an endpoint has: they grow with its share of the traffic, before it is given.

What was live keeps its pods until it is retired, as going back is not to wait for any; with a limit of pods it gives
up those that its share does not need any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets.kubernetes import scaling
from deploy_targets.kubernetes.pods import Pods, needed
from headgate.errors import TargetError, TargetUnavailableError
from headgate.records import Traffic
from headgate.units import BASIS_POINTS, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.endpoint import Known
    from deploy_targets.kubernetes.servers import Servers
    from deploy_targets.kubernetes.settings import KubernetesSettings

_GROW_SECONDS = 900.0
_END_SECONDS = 60.0


class Growth:
    """The pods of one endpoint, on the way from the traffic that it has to another.

    Args:
        api: the namespace.
        endpoint: whose.
        there: what is known of it.
        look: its servers as they are now, by revision; scalers change them too.
        reached: waits until requests reach so many pods of a revision.
        settings: the target's; `surge` is how many more pods than the live revision's there may be.
    """

    def __init__(
        self, api: Api, endpoint: str, there: Known, look: Callable[[], Mapping[str, Servers]],
        reached: Callable[[str, int], None], settings: KubernetesSettings,
    ) -> None:  # fmt: skip
        self._api, self._endpoint, self._look, self._reached = api, endpoint, look, reached
        self._surge, self._scaler = settings.surge, scaling.kind_for(settings)
        self._now, self._served = there.traffic, there.served
        self._made: Mapping[str, Servers] = {}
        self._has: dict[str, int] = {}

    def stages(self, wanted: Traffic, made: Mapping[str, Servers]) -> Iterator[Traffic]:
        """Each traffic on the way, once there are the pods for it: one, where their number is not limited.

        Args:
            wanted: the last one.
            made: the servers as they were just read.

        Raises:
            TargetError: copies need more pods than there may be.
            TargetUnavailableError: they are not ready in time.
        """
        self._take(made)
        if self._surge is not None and self._is_way_back(wanted):
            # Not to wait is what matters now: it takes everything with the pods that it has, and the rest follow.
            back = next(iter(wanted.weights))
            pods = self._pods(back, BASIS_POINTS)
            yield wanted
            self._now = wanted
            self._make_room(wanted, {name: pods if name == back else 0 for name in self._made})
            self._leave(back, pods)
            self._set(back, pods)
            return
        while (stage := self._next(wanted)) != wanted:
            self._grow(stage)
            yield stage
            self._now = stage
            self._take(self._look())
        self._grow(wanted)
        yield wanted

    def admit(self) -> None:
        """Make way for the first pod of another revision, where their number is limited.

        Raises:
            TargetError: there is no way, as others are kept warm.
        """
        if self._surge is None or self._now is None:
            return
        self._take(self._look())
        warm = [name for name in self._made if not self._now.uses(name)]
        if len(warm) >= self._surge:
            raise TargetError(
                f"target.surge allows {self._surge} pods beside the live version's, and {', '.join(warm)} is kept warm",
                fix="raise target.surge, or shorten rollback.keep_warm",
            )
        live = sum(self._has[name] for name in self._made if self._now.uses(name))
        for name in warm:
            if sum(self._has.values()) >= live + self._surge and self._has[name] > 1:
                self._leave(name, 1)
                self._set(name, 1)
                self._pods_of(name).wait_until_told_to_end(1, _END_SECONDS)

    def relax(self, leaving: str) -> None:
        """Nobody goes back any more: a scaler may take from what is live what nobody needs, and nothing is missing.

        Args:
            leaving: who is to be removed.
        """
        self._take(self._look())
        holder = self._now.holder if self._now else None
        if holder is None or holder not in self._made or holder == leaving:
            return
        own = self._own(holder)
        if self._has[holder] < own:
            # Whoever gave it all traffic did not live to see its pods follow.
            self._set(holder, own)
        self._leave(holder, own)

    def _take(self, made: Mapping[str, Servers]) -> None:
        self._made = made
        self._has = {name: found.asked for name, found in made.items()}

    def _next(self, wanted: Traffic) -> Traffic:
        """As far as one goes at once with the pods that there may be."""
        now, surge = self._now, self._surge
        if surge is None or now is None or wanted.mirror is not None:
            return wanted
        growing = [name for name in wanted.weights if wanted.weight(name) > now.weight(name)]
        giving = [name for name in now.weights if name not in growing]
        if len(growing) != 1 or len(giving) != 1:
            return wanted
        (more,), (less,) = growing, giving
        room = self._full(more) + surge - self._pods(less, now.weight(less)) - self._idle(more, less)
        share = room * BASIS_POINTS // self._full(more)
        if self._pods(more, wanted.weight(more)) <= room or not now.weight(more) < share < BASIS_POINTS:
            return wanted
        return Traffic.split(less, more, share)

    def _grow(self, wanted: Traffic) -> None:
        shares = dict(wanted.weights)
        if wanted.mirror is not None:
            copied = wanted.mirror
            shares[copied.revision] = max(shares.get(copied.revision, 0), copied.share)
            self._see_that_there_is_room(copied.revision, copied.share)
        targets = {name: self._pods(name, shares.get(name, 0)) for name in self._made}
        if self._surge is not None:
            self._make_room(wanted, targets)
        before, grown = self._now.weights if self._now else {}, {}
        for name, found in self._made.items():
            pods, has, share = targets[name], self._has[name], shares.get(name, 0)
            # Its scaler would take pods from what was live, or is to be, while that has less to do.
            keeps = has if name in before and self._surge is None else 1
            self._leave(name, self._own(name) if len(self._made) == 1 else max(pods, keeps))
            if has < pods:
                self._set(name, pods)
            # What had all traffic before has its pods still: clients go back at once, and it grows meanwhile, or a pod
            # of it that is not well becomes so.
            is_back = name in self._served and (has >= pods or found.answering >= needed(share, self._own(name)))
            # Also where they were asked for before: whoever did may not have lived to see them.
            if min(has, found.answering) < pods and not is_back:
                grown[name] = pods
        for name, pods in grown.items():
            self._pods_of(name).wait_until_ready(pods, _GROW_SECONDS)
            self._reached(name, pods)

    def _make_room(self, wanted: Traffic, targets: Mapping[str, int]) -> None:
        """Take pods, down to what its share of now needs, from whoever has less of it."""
        assert self._surge is not None  # noqa: S101 - it was asked
        now = self._now or wanted
        most = max(max(self._full(name), targets[name]) for name in wanted.weights) + self._surge
        surplus = sum(max(self._has[name], targets[name]) for name in self._made) - most
        for name in sorted(self._made, key=now.weight):
            least = max(1, targets[name], self._pods(name, now.weight(name)))
            if (gives := min(surplus, self._has[name] - least)) > 0:
                self._leave(name, self._has[name] - gives)
                self._set(name, self._has[name] - gives)
                self._pods_of(name).wait_until_told_to_end(self._has[name], _END_SECONDS)
                surplus -= gives

    def _idle(self, *asked: str) -> int:
        """Pods of those that are only kept warm, which have one each where pods are scarce."""
        return sum(min(has, 1) for name, has in self._has.items() if name not in asked)

    def _see_that_there_is_room(self, revision: str, share: int) -> None:
        if self._surge is not None and (pods := self._pods(revision, share)) > self._surge:
            raise TargetError(
                f"copies of {format_percent(share / BASIS_POINTS)} of the requests need {pods} pods beside those of "
                f"the live version, and target.surge allows {self._surge}",
                fix="lower gates.shadow.percent, or raise target.surge; blue-green needs as many pods again",
            )

    def _is_way_back(self, wanted: Traffic) -> bool:
        back = wanted.holder
        return (
            back in self._served
            and wanted.mirror is None
            and self._now is not None
            and self._now.weight(back) < BASIS_POINTS
            and self._made[back].answering > 0
        )

    def _pods(self, name: str, share: int) -> int:
        """How many pods of a revision a share of the traffic needs."""
        most, pods = self._made[name].most, needed(share, self._full(name)) if share else 0
        return pods if most is None else min(pods, most)

    def _full(self, name: str) -> int:
        """How many it has with all traffic: what was asked for, or as many as the load of now needs."""
        live = [self._has[one] for one in (self._now.weights if self._now else {}) if one in self._has]
        # What two share has more pods than one of them, and up to `surge` more than one alone would have.
        shared = [sum(live) - self._surge] if self._surge is not None and len(live) > 1 else []
        return max(1, self._own(name), *live, *shared)

    def _own(self, name: str) -> int:
        return self._made[name].own

    def _leave(self, name: str, pods: int) -> None:
        """Have a revision's scaler, if it has one, leave it so many."""
        change = self._made[name].to_leave(pods)
        try:
            if change is not None:
                self._api.merge(*change)
        except TargetUnavailableError:
            raise
        except TargetError:
            # Of a time when the release file had KEDA, or had it not: its rights, or KEDA, may be gone by now, which
            # must not keep clients from going back. Pods that are asked for are made all the same.
            if change is not None and change.kind == self._scaler:
                raise

    def _set(self, name: str, pods: int) -> None:
        self._api.merge(*self._made[name].to_have(pods))
        self._has[name] = pods

    def _pods_of(self, name: str) -> Pods:
        return Pods(self._api, self._endpoint, name, self._made[name].kind)
