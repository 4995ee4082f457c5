"""The page itself: a run folder in, `report.html` in the same folder out."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from mgh_ds.common.charts.scales import number
from mgh_ds.common.files import write_bytes
from mgh_ds.common.templates import page_environment
from mgh_ds.report import comparison, curves, plots, token_weights
from mgh_ds.report.data import Parameters, Run, StageSteps, load_run
from mgh_ds.report.retrieval import retrieval_browser


@dataclass(frozen=True)
class StageRow:
    """A stage in numbers: its loss over its first and its last tenth, and its throughput."""

    name: str
    steps: str
    loss_first: float
    loss_last: float
    texts_per_s: float
    seconds: float


@dataclass(frozen=True)
class Ruler:
    """The scale, in points, on which the table draws before and after; positions are shares of its width."""

    low: float
    high: float

    def at(self, points: float) -> float:
        return round((points - self.low) / (self.high - self.low), 4)


def write_report(run: Path) -> Path:
    """Writes `run`/report.html in one step and returns its path.

    Raises MghError if `run` is not a run folder or one of its files breaks its format.
    """
    page = run / "report.html"
    # A lone surrogate, which JSON can carry in a text, has no UTF-8: it becomes a question mark.
    write_bytes(page, render(load_run(run)).encode("utf-8", errors="replace"))
    return page


def render(run: Run) -> str:
    """The HTML of a run. Everything that the run's files say is escaped by the template engine."""
    tasks, levels = comparison.task_rows(run), comparison.level_rows(run)
    texts, cap = token_weights.heat_maps(run)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            info=run.info,
            overview=overview(run),
            headline=comparison.headline(run),
            groups=[("Held-out tasks", tasks), ("Accuracy on held-out negatives", levels)],
            ruler=ruler([row.points for row in tasks + levels]),
            curves=curves.charts(run),
            best=curves.best(run),
            stages=[stage_row(stage) for stage in run.stages],
            window=plots.smoothing_window(run),
            thinning=plots.thinning(run),
            loss=plots.loss_chart(run),
            by_level=[
                ("Accuracy by level, %", plots.accuracy_chart(run)),
                ("Margin by level", plots.margin_chart(run)),
            ],
            instruments=plots.small_charts(run),
            texts=texts,
            cap=cap,
            browser=retrieval_browser(run),
        )
    )


def overview(run: Run) -> list[tuple[str, str]]:
    """The header's overview as (name, value); what the run has not written is left out."""
    info = run.info
    known: list[tuple[str, str | None]] = [
        ("Model", info.model),
        ("Device", f"{info.world_size} × {info.device}" if info.device and info.world_size else info.device),
        ("Wall time", duration(wall_seconds(run))),
        ("Steps", f"{len(run.steps):,}"),
        ("Global batch", f"{info.global_batch:,} records" if info.global_batch else None),
        ("Parameters", _parameters(info.parameters)),
        ("Scored and exported", _weights(info.interpolate)),
        ("Throughput", _throughput(info.texts_per_s, info.tokens_per_s)),
        ("Model FLOPs utilisation", _percent(info.mfu) or ("unknown" if info.finished else None)),
        ("Memory, at most", f"{info.memory_bytes / 1e9:.3g} GB" if info.memory_bytes else None),
        ("Padding", _padding(info.padding_saved, info.padding_spent)),
        *[(f"Waiting for {name}", _percent(share)) for name, share in info.wait_shares.items()],
        *_statistics(run),
        ("Started", f"{info.started:%Y-%m-%d %H:%M}" if info.started else None),
        ("Finished", f"{info.finished:%Y-%m-%d %H:%M}" if info.finished else "not yet"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in info.versions.items()) or None),
    ]
    return [(name, value) for name, value in known if value]


def _weights(share: float) -> str | None:
    return None if share == 1 else f"weights at {share:g} of the way from the backbone's to the trained"


def wall_seconds(run: Run) -> float:
    """The run's training time; while it still trains, what its steps and checkpoints have taken so far."""
    if run.info.train_seconds is not None:
        return run.info.train_seconds
    steps = sum(step.seconds for step in run.steps if math.isfinite(step.seconds))
    return steps + sum(checkpoint.seconds for checkpoint in run.checkpoints)


def stage_row(stage: StageSteps) -> StageRow:
    tenth = max(1, len(stage.steps) // 10)
    return StageRow(
        name=stage.name,
        steps=f"{stage.first:,}–{stage.last:,}",
        loss_first=_mean([step.loss for step in stage.steps[:tenth]]),
        loss_last=_mean([step.loss for step in stage.steps[-tenth:]]),
        texts_per_s=_median([step.texts_per_s for step in stage.steps]),
        seconds=math.fsum(step.seconds for step in stage.steps if math.isfinite(step.seconds)),
    )


def ruler(pairs: Sequence[comparison.Pair]) -> Ruler:
    """A scale of whole tens that holds every score."""
    scores = [score for pair in pairs for score in (pair.before, pair.after) if score is not None]
    low = 10 * math.floor((min(scores, default=0) - 1) / 10)
    high = 10 * math.ceil(max(scores, default=100) / 10)
    return Ruler(low, max(high, low + 10))


def change(points: float) -> str:
    """A signed change with one decimal: +12.5, −0.3, ±0.0."""
    text = f"{points:+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def cosine(value: float) -> str:
    """A cosine with three decimals: 0.713, −0.042."""
    return "…" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 3 min 20 s, 5 h 07 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def times(ratio: float) -> str:
    """A ratio to uniform: 1.8×, 0.35×, 12×."""
    return f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.0f}×"


def environment() -> Environment:
    """The templates of this room, with its filters."""
    environment = page_environment(Path(__file__).parent, autoescape=True)
    environment.filters |= {
        "change": change,
        "cosine": cosine,
        "duration": duration,
        "number": lambda value: number(value) if math.isfinite(value) else "…",
        "times": times,
    }
    return environment


def _parameters(parameters: Parameters | None) -> str | None:
    if parameters is None:
        return None
    total, trainable = parameters.total, parameters.trainable
    return f"{trainable:,} of {total:,} trained ({100 * trainable / max(1, total):.2g} %)"


def _throughput(texts: float | None, tokens: float | None) -> str | None:
    rates = [(texts, "texts/s"), (tokens, "tokens/s")]
    return ", ".join(f"{number(rate)} {unit}" for rate, unit in rates if rate is not None) or None


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2g} %"


def _padding(saved: float | None, spent: float | None) -> str | None:
    """Of two shares, of which packing decides which one is 0."""
    return f"{_percent(saved)} saved" if saved else f"{_percent(spent)} of the places" if spent else None


def _statistics(run: Run) -> list[tuple[str, str | None]]:
    """The loss's own statistics, by their names, as means over the steps."""
    names = dict.fromkeys(name for step in run.steps for name in step.statistics)
    means = {name: _mean([step.statistics.get(name, math.nan) for step in run.steps]) for name in names}
    return [
        (name.replace("_", " ").capitalize(), None if math.isnan(mean) else f"{mean:.2g}")
        for name, mean in means.items()
    ]


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.fmean(known) if known else math.nan


def _median(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan
