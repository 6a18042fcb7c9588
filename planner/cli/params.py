"""`planner params`: count parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.checkpoint_files import FromFiles
from planner.cli.options import ClassName, ModelsDir, Offline, Overrides

if TYPE_CHECKING:
    from planner.checkpoint import Reconciliation
    from planner.cli.checkpoint_files import Named
    from planner.models import Model
    from planner.numeric import Num
    from planner.report import Table


def params(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Paths to config.json, weight files or their folders, or names of models.",
            show_default=False,
        ),
    ] = None,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            metavar="PACKAGE.MODULE:FACTORY",
            help="A torch module of your own: what to import and call; may be given several times.",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
    explain: Annotated[
        bool, typer.Option("--explain", help="Print where the number comes from, tensor by tensor.")
    ] = False,
    checkpoint: Annotated[
        bool,
        typer.Option("--checkpoint", help="Print what a checkpoint holds beyond the class, and the published total."),
    ] = False,
    from_files: FromFiles = False,
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> None:
    """Count parameters exactly, by component, from a config alone, and show weight files beside it as stored."""
    import json

    from planner.cli.checkpoint_files import Named, named, stored_rows_table, stored_table
    from planner.cli.output import emit
    from planner.errors import PlannerError
    from planner.report import check_format

    check_format(output_format)
    if not models and not modules:
        raise PlannerError("expected a MODEL or --module package.module:factory")
    if not models and (overrides or class_name is not None):
        raise PlannerError("means nothing for a module", key="--set" if overrides else "--class")
    found = [
        named(
            name,
            models_dir=models_dir,
            overrides=overrides,
            class_name=class_name,
            offline=offline,
            from_files=from_files,
        )
        for name in models or ()
    ]
    found += [Named(name=name, model=_module_model(name)) for name in modules or ()]
    loaded = [one.model for one in found if one.model is not None]
    if output_format == "json":
        records = [_record(one, explain=explain, checkpoint=checkpoint) for one in found]
        typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
    elif output_format == "text":
        for one in found:
            if one.model is not None:
                _emit_model(one.model, explain=explain, checkpoint=checkpoint)
            if one.stored is not None:
                emit(stored_table(one), "text")
        if len(loaded) > 1:
            emit(_totals_table(loaded), "text")
    elif from_files or not loaded:
        emit(stored_rows_table([one for one in found if one.stored is not None]), output_format)
    elif checkpoint:
        emit(_all_terms_table(loaded), output_format)
    else:
        emit(_totals_table(loaded, with_breakdown=True), output_format)


def _emit_model(model: Model, *, explain: bool, checkpoint: bool) -> None:
    from planner.cli.output import emit

    emit(_breakdown_table(model), "text")
    if explain:
        _emit_derivation(model)
    if checkpoint:
        emit(_checkpoint_table(model), "text")


def _module_model(name: str) -> Model:
    from planner.models import MODULE, tree_model
    from planner.real.user_module import user_module

    made = user_module(name, with_values=False)
    return tree_model(
        made.tree,
        name=name,
        origin=made.origin,
        raw={},
        class_name=made.class_name,
        method=MODULE,
        assumptions=made.assumptions,
    )


def _record(found: Named, *, explain: bool, checkpoint: bool) -> dict[str, object]:
    """What JSON says about one argument: its model, its files, or both."""
    from planner.cli.checkpoint_files import stored_record

    if found.model is None:
        return {"model": found.name, "stored": stored_record(found)}
    record = _model_record(found.model, explain=explain, checkpoint=checkpoint)
    return record if found.stored is None else record | {"stored": stored_record(found)}


def _model_record(model: Model, *, explain: bool, checkpoint: bool) -> dict[str, object]:
    from planner.article import applies_to, claims
    from planner.counts import count
    from planner.explain import derivation

    counts = count(model.tree)
    record: dict[str, object] = {
        "model": model.name,
        "class": model.class_name,
        "method": model.method,
        "total": counts.total,
        "active": counts.active,
        "active_excl_input_embedding": counts.active_excl_input_embedding,
        "total_with_untied_head": counts.total_with_untied_head,
        "breakdown": counts.breakdown,
        "assumptions": list(model.assumptions),
    }
    if explain:
        record["derivation"] = derivation(model)
        if applies_to(model):
            record["popular_article"] = [
                {
                    "what": claim.what,
                    "formula": claim.formula,
                    "claimed": claim.claimed,
                    "exact_formula": claim.exact_formula,
                    "exact": claim.exact,
                    "error": claim.error,
                    "why": claim.why,
                }
                for claim in claims(model)
            ]
    if checkpoint:
        record["checkpoint"] = _checkpoint_record(model)
    return record


def _checkpoint_record(model: Model) -> dict[str, object]:
    from planner.checkpoint import Term, reconcile

    def listed(terms: tuple[Term, ...]) -> list[dict[str, object]]:
        return [{"term": term.kind, "parameters": term.parameters, "why": term.why} for term in terms]

    found = reconcile(model)
    return {
        "class": found.class_name,
        "total": found.total,
        "terms": listed(found.terms),
        "sum": found.explained,
        "published_total": found.published_total,
        "published_source": found.published_source,
        "unexplained": found.unexplained,
        "may_also_hold": listed(found.others),
    }


def _checkpoint_rows(found: Reconciliation) -> list[tuple[str, Num, str]]:
    """From the class by its terms to the published total; what may be there besides, where none is published."""
    rows: list[tuple[str, Num, str]] = [(found.class_name, found.total, "parameters of the class, tied tensors once")]
    rows += [(term.kind, term.parameters, term.why) for term in found.terms]
    if found.published_total is None:
        return rows + [(f"may hold: {term.kind}", term.parameters, term.why) for term in found.others]
    rows.append(("sum", found.explained, ""))
    if found.unexplained:
        rows.append(("not explained", found.unexplained, "no term is known for it"))
    return [*rows, ("published", found.published_total, found.published_source or "")]


def _checkpoint_table(model: Model) -> Table:
    from planner.checkpoint import reconcile
    from planner.report import Table
    from planner.units import format_count

    found = reconcile(model)
    if found.published_total is None:
        notes = ["no published total of this config is known: a checkpoint may hold any of these, or none"]
    else:
        notes = [
            f"not in this total, but a checkpoint may hold it: {term.kind}, {format_count(term.parameters)}, {term.why}"
            for term in found.others
        ]
    return Table(
        title=f"what a checkpoint of {model.name} holds",
        columns=("term", "parameters", "why"),
        rows=_checkpoint_rows(found),
        notes=notes,
    )


def _all_terms_table(models: list[Model]) -> Table:
    from planner.checkpoint import reconcile
    from planner.report import Table

    return Table(
        title="what checkpoints hold",
        columns=("model", "term", "parameters", "why"),
        rows=[(model.name, *row) for model in models for row in _checkpoint_rows(reconcile(model))],
    )


def _breakdown_table(model: Model) -> Table:
    from planner.counts import count
    from planner.report import Table
    from planner.units import format_count, format_share

    counts = count(model.tree)
    notes = [f"active a token: {format_count(counts.active)}"] if counts.active != counts.total else []
    if counts.active_excl_input_embedding != counts.active:
        notes.append(f"active without the input table: {format_count(counts.active_excl_input_embedding)}")
    if counts.total_with_untied_head != counts.total:
        notes.append(f"with the tied head stored twice: {format_count(counts.total_with_untied_head)}")
    notes.append(f"config: {model.origin}")
    notes += [f"assumed: {line}" for line in model.assumptions]
    rows = [[name, held, format_share(held / counts.total)] for name, held in counts.breakdown.items()]
    return Table(
        title=f"{model.name} ({model.class_name}): {format_count(counts.total)} parameters",
        columns=("component", "parameters", "share"),
        rows=[*rows, ["total", counts.total, format_share(1)]],
        notes=notes,
    )


def _totals_table(models: list[Model], *, with_breakdown: bool = False) -> Table:
    from planner.counts import count
    from planner.report import Table

    counted = [(model, count(model.tree)) for model in models]
    buckets = list(dict.fromkeys(name for _, counts in counted for name in counts.breakdown)) if with_breakdown else []
    return Table(
        title="parameters",
        columns=(
            "model",
            "class",
            "method",
            "total",
            "active",
            "active_excl_input_embedding",
            "total_with_untied_head",
            *(f"breakdown.{name}" for name in buckets),
        ),
        rows=[
            [
                model.name,
                model.class_name,
                model.method,
                counts.total,
                counts.active,
                counts.active_excl_input_embedding,
                counts.total_with_untied_head,
                *(counts.breakdown.get(name, 0) for name in buckets),
            ]
            for model, counts in counted
        ],
    )


def _emit_derivation(model: Model) -> None:
    from planner.article import applies_to
    from planner.cli.output import emit
    from planner.explain import block_formulas, module_lines, tied_lines
    from planner.models import BUILDER
    from planner.report import Table

    lines = module_lines(model)
    emit(
        Table(
            title="every tensor",
            columns=("tensor", "shape", "copies", "parameters", "component"),
            rows=[
                [line.path, " x ".join(map(str, line.shape)), line.copies, line.parameters, line.bucket]
                for line in lines
            ],
            notes=[f"{path} runs with the weight of {to} and holds none" for path, to in tied_lines(model)],
        ),
        "text",
    )
    # What was read off a module has no names for its dimensions, so its formulas would be numbers.
    for block in block_formulas(model) if model.method == BUILDER else ():
        values = ", ".join(f"{name} = {value:,}" for name, value in block.values.items())
        emit(
            Table(
                title=f"one block of {block.path} ({block.copies} of this kind)",
                columns=("component", "formula"),
                rows=[*block.components.items(), ("sum", block.formula)],
                notes=[f"with {values}: {block.parameters:,}"],
            ),
            "text",
        )
    if applies_to(model):
        emit(_article_table(model), "text")


def _article_table(model: Model) -> Table:
    from planner.article import claims
    from planner.report import Table
    from planner.units import format_percent

    return Table(
        title="a popular article's formulas against the exact ones, BertModel",
        columns=("what", "the article", "claims", "exactly", "is", "error", "error", "because"),
        rows=[
            [
                claim.what,
                claim.formula,
                claim.claimed,
                claim.exact_formula,
                claim.exact,
                claim.error,
                format_percent(claim.error / claim.exact),
                claim.why,
            ]
            for claim in claims(model)
        ],
        notes=["H hidden_size, A heads, L layers, F intermediate_size, V vocabulary, P positions, T token types"],
    )
