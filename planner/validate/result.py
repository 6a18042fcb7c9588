"""One measurement beside its prediction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One quantity of one measured row.

    Attributes
    ----------
    id : str
        Of the row.
    recipe : str
        Recipe, or engine and version, whose figures predicted it; what the summary groups by.
    quality : str
        How well the row is known, as the file says: ``A`` to ``X``; empty where it does not say.
    quantity : str
        Name of the field that was measured, such as ``peak_bytes``.
    measured : float or None
        As measured, in the field's unit; None where a row measured nothing.
    predicted : float or None
        In the same unit; None where it was skipped.
    low, high : float or None
        Interval that holds 90 % of measurements, where residuals of earlier ones support one.
    context : str
        Kind of case, see `planner.validate.context`; empty where it makes no difference.
    skipped : str
        Why there is no prediction; empty where there is one.
    """

    id: str
    recipe: str
    quality: str
    quantity: str
    measured: float | None
    predicted: float | None = None
    low: float | None = None
    high: float | None = None
    context: str = ""
    skipped: str = ""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None where there is no prediction. [-]"""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1
