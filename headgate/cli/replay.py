"""replay: what a policy would have done, before it is trusted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from headgate.cli.output import json_option, print_json, print_table, say
from headgate.errors import BadInputError
from headgate.home import Home
from headgate.units import format_percent, parse_duration, parse_percent, rough_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.spec import ReleaseSpec
    from monitoring.replay import Case, Rule, Trace, Trial, Verdict


def _unit(parse: Callable[[object], float]) -> Callable[[click.Context, click.Parameter, str], float]:
    def convert(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--release", "release_id", help="The recorded looks of this release; see headgate history --all.")
@click.option("--counts", type=click.Path(path_type=Path), help="Recorded counts: a CSV or Parquet file.")
@click.option(
    "--rate", type=click.FloatRange(0.1, 100_000), default=200.0, show_default=True, help="Requests a second."
)
@click.option("--stable", default="0.1%", callback=_unit(parse_percent), show_default=True, help="Its failure rate.")
@click.option("--canary", default="1%", callback=_unit(parse_percent), show_default=True, help="Its failure rate.")
@click.option("--slower", type=click.FloatRange(1, 100), default=1.0, help="Multiplies the canary's latencies.")
@click.option("--after", default="0s", callback=_unit(parse_duration), help="When the fault begins.")
@click.option("--world", "world_name", help="In place of these five: a world of docs/judge.md, with its own seed.")
@click.option("--minutes", type=click.FloatRange(1, 24 * 60), default=60.0, show_default=True)
@click.option("--replications", type=click.IntRange(10, 10_000), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--compare", is_flag=True, help="Beside it the documented rules of Flagger, Argo Rollouts and others.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture: .png, .svg or .pdf.")
@json_option
def replay(
    path: Path | None, release_id: str | None, counts: Path | None, *, world_name: str | None, compare: bool,
    plot: Path | None, as_json: bool, **simulated: Any,  # noqa: ANN401 - the options of the simulation
) -> None:  # fmt: skip
    """Try the judge of a release file (PATH; else the defaults) on recorded counts, or on simulated traffic.

    A record shows what each rule would have done with the very counts of that time. A simulation tells how often a
    rule finds the fault that is described, after how many failed requests, and how often it takes a good canary back.
    """
    if release_id and counts:
        raise BadInputError("--release and --counts are two records", fix="give one of them")
    if plot is not None and plot.suffix not in {".png", ".svg", ".pdf"}:
        raise BadInputError(f"--plot: {plot.suffix or plot} is no picture", fix="end it in .png, .svg or .pdf")
    spec = _load(path)
    if release_id or counts:
        trace, rule = _recorded(spec, release_id, counts)
        _show_verdicts(_rules(rule, compare=compare), trace, plot, as_json=as_json)
    else:
        _show_trials(spec, plot, world_name, compare=compare, as_json=as_json, **simulated)


def _load(path: Path | None) -> ReleaseSpec | None:
    from headgate.release_file import load_release

    return load_release(path) if path else None


def _rules(ours: Rule, *, compare: bool) -> Sequence[Rule]:
    from monitoring.replay import OTHERS

    return (ours, *OTHERS) if compare else (ours,)


def _recorded(spec: ReleaseSpec | None, release_id: str | None, counts: Path | None) -> tuple[Trace, Rule]:
    from headgate.spec import ReleaseSpec
    from monitoring.judge import ErrorRate, Policy
    from monitoring.replay import Headgate, Trace, read_counts
    from monitoring.rollout import policy_of
    from registry import history
    from registry.journal import open_journal

    if counts is not None:
        return read_counts(counts), Headgate(
            policy_of(spec, (), client_errors=False) if spec else Policy([ErrorRate()])
        )
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        shift = history.shift_of(journal, release_id or "")
    if shift is None:
        raise BadInputError(f"no release {release_id} shifted live traffic", fix="see headgate history ENDPOINT --all")
    used = spec or ReleaseSpec.model_validate(shift.spec)
    return Trace.of_looks(shift.looks, shift.before), Headgate(policy_of(used, shift.bounds))


def _show_verdicts(rules: Sequence[Rule], trace: Trace, plot: Path | None, *, as_json: bool) -> None:
    from monitoring.replay import replay as ask
    from monitoring.replay.picture import trace_picture

    verdicts = [ask(rule, trace) for rule in rules]
    if plot is not None:
        trace_picture(trace, verdicts, plot)
        say(f"wrote {plot}")
    if as_json:
        print_json([{**vars(verdict), "seconds": _finite(verdict.seconds)} for verdict in verdicts])
        return
    print_table(
        f"{len(trace.seconds)} looks in {trace.seconds[-1]:.0f} s", ["rule", "would have", "after", "bad requests"],
        [_verdict_row(verdict) for verdict in verdicts],
    )  # fmt: skip


def _verdict_row(verdict: Verdict) -> tuple[str, str, str, str]:
    did = {"rollback": "rolled back", "promote": "promoted", "inconclusive": "given up"}.get(verdict.phase, "gone on")
    return verdict.rule, did, _seconds(verdict.seconds), f"{verdict.bad:.0f}"


_WORLD_OPTIONS = ("rate", "stable", "canary", "slower", "after")


def _case(name: str | None, options: dict[str, Any]) -> Case:
    """The world of this name, or the one that the options describe.

    Raises:
        BadInputError: there is none of this name, or nothing is wrong with its canary.
    """
    from monitoring.replay import CASES, KEPT_APART, Case, World

    if name is None:
        world = World(**{option: options[option] for option in _WORLD_OPTIONS})
        if world.is_good:
            raise BadInputError("--canary is as --stable, and --slower is 1", fix="say what is wrong with the canary")
        return Case("", options["seed"], replace(world, canary=world.stable, slower=1.0), world)
    context = click.get_current_context()
    given = [
        f"--{option}" for option in (*_WORLD_OPTIONS, "seed")
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT
    ]  # fmt: skip
    if given:
        raise BadInputError(f"--world {name} and {', '.join(given)}: a world has its own", fix="give one of them")
    worlds = {one.name: one for one in (*CASES, *KEPT_APART)}
    if name not in worlds:
        raise BadInputError(f"--world: there is no world {name!r}", fix=f"one of {', '.join(worlds)}")
    return worlds[name]


def _show_trials(
    spec: ReleaseSpec | None, plot: Path | None, world_name: str | None, *, compare: bool, as_json: bool,
    **options: Any,  # noqa: ANN401 - those of the simulation
) -> None:  # fmt: skip
    from monitoring.judge import ErrorRate, Policy
    from monitoring.replay import Headgate, trial
    from monitoring.replay.picture import trial_picture
    from monitoring.replay.traffic import BOUNDS
    from monitoring.rollout import policy_of

    tried = _case(world_name, options)
    world, latency = tried.broken, tried.broken.slower != 1
    if spec is not None:
        ours = Headgate(policy_of(spec, BOUNDS if latency else ()))
    else:
        ours = Headgate.default(latency=True) if latency else Headgate(Policy([ErrorRate()]))
    chosen = {"seed": tried.seed, **{name: options[name] for name in ("replications", "minutes")}}
    trials = []
    for rule in _rules(ours, compare=compare):
        say(f"trying {rule.name}")
        trials.append(trial(
            rule, world, tried.good, latency=latency, look=5.0 if latency else 1.0,
            reading=tried.settled if rule is ours else tried.reading, is_dispersed=world_name is not None, **chosen,
        ))  # fmt: skip
    if plot is not None:
        trial_picture(trials, plot)
        say(f"wrote {plot}")
    if as_json:
        print_json([_numbers(one) for one in trials])
        return
    where = f"{tried.name}: " if tried.name else ""
    fault = f"{where}{format_percent(world.stable)} -> {format_percent(world.canary)} of requests fail"
    slower = f", {world.slower:g} times slower" if latency else ""
    print_table(
        f"{fault}{slower}, {world.rate:g} requests/s, {chosen['replications']} replications of "
        f"{chosen['minutes']:g} min, seed {chosen['seed']}",
        ["rule", "finds it", "bad requests", "after", "false rollback", "promotes good", "after"],
        [_trial_row(one) for one in trials],
    )  # fmt: skip


def _numbers(trial: Trial) -> dict[str, Any]:
    from monitoring.judge.batch import PROMOTE, ROLLBACK

    return {
        "rule": trial.rule,
        "detection": trial.faulty.rolled_back,
        "bad_requests": _finite(trial.faulty.median("bad", ROLLBACK)),
        "seconds": _finite(trial.faulty.median("seconds", ROLLBACK)),
        "false_rollback": trial.good.rolled_back,
        "promotion": trial.good.promoted,
        "promotion_seconds": _finite(trial.good.median("seconds", PROMOTE)),
    }


def _trial_row(trial: Trial) -> tuple[str, ...]:
    numbers = _numbers(trial)
    bad = numbers["bad_requests"]
    return (
        trial.rule, rough_percent(numbers["detection"]), "" if bad is None else f"{bad:.0f}",
        _seconds(numbers["seconds"]), rough_percent(numbers["false_rollback"]), rough_percent(numbers["promotion"]),
        _seconds(numbers["promotion_seconds"]),
    )  # fmt: skip


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _seconds(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"  # noqa: PLR2004 - two minutes
